"""Weights come from plain files only, or at random but always the same; the digest knows them."""

from __future__ import annotations

import pickle

import pytest
import torch
import torchvision
from models_factories import Tiny
from safetensors.torch import save_file

from whylight.errors import InvalidInput, NotFound
from whylight.method import Batch
from whylight.models import ModelConfig, open_model, wrap_module
from whylight.models.weights import digest_of, load_weights, random_weights
from whylight.subject import CancelToken
from whylight.target import Rank


@pytest.mark.parametrize("kind", [".safetensors", ".pt", ".pth", "nested"])
def test_files(kind, tmp_path):
    source, module = Tiny(), Tiny()
    random_weights(source, 5)
    state = source.state_dict()
    if kind == ".safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    else:
        path = tmp_path / f"weights{kind if kind != 'nested' else '.pth'}"
        nested = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
        torch.save(nested if kind == "nested" else state, path)
    assert digest_of(module) != digest_of(source)
    load_weights(module, path)
    assert digest_of(module) == digest_of(source)


class _Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": _Evil()}, path)
    with pytest.raises(InvalidInput, match="pickled objects are refused"):
        load_weights(Tiny(), path)
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(InvalidInput):
        load_weights(Tiny(), path)


def test_weights_that_do_not_fit_are_explained(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(InvalidInput, match=r"do not fit.*conv1\.weight"):
        load_weights(Tiny(), path)
    with pytest.raises(NotFound):
        load_weights(Tiny(), tmp_path / "absent.pth")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"\.safetensors, \.pt or \.pth"):
        load_weights(Tiny(), tmp_path / "weights.bin")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 64)
    with pytest.raises(InvalidInput, match="not a safetensors file"):
        load_weights(Tiny(), broken)


def test_random_weights_are_the_same_each_time_and_leave_the_global_generator_alone(sources):
    before = torch.get_rng_state()
    config = ModelConfig(name="r", source="torchvision:resnet18", weights="random:7", input_size=(64, 64))
    one, other = open_model(config, sources), open_model(config, sources)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.digest == other.digest
    assert open_model(config.model_copy(update={"weights": "random:8"}), sources).digest != one.digest


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "vgg11_bn", "mobilenet_v2", "densenet121", "squeezenet1_1"])
def test_random_maps_are_not_all_zero(name):
    module = torchvision.models.get_model(name)
    random_weights(module, 0)
    model = wrap_module(module, input_size=(96, 96))
    inputs = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    work = Batch(inputs, (Rank(0), Rank(0)), (0, 1), CancelToken())
    activations, gradients = model.subject().layer_gradients(work, "last-spatial")
    maps = (activations * gradients.mean((2, 3), keepdim=True)).sum(1).relu()
    assert torch.isfinite(maps).all()
    assert (maps.amax((1, 2)) > 1e-6 * activations.abs().max()).all()


def test_a_seed_must_be_a_number(sources):
    with pytest.raises(InvalidInput, match="random:SEED"):
        open_model(ModelConfig(name="r", source="torchvision:resnet18", weights="random:x"), sources)
