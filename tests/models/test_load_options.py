"""Layout, folding, precision and compiling keep the answer, and are refused or undone where they would not."""

from __future__ import annotations

import pytest
import torch
from models_factories import Shares, Tiny
from torch import nn

from whylight.method import Batch
from whylight.models import ModelConfig, open_model, wrap_module
from whylight.models.weights import random_weights
from whylight.subject import CancelToken
from whylight.target import ClassIndex, Neuron, Rank


def built(kind=Tiny, **options):
    module = kind()
    random_weights(module, 3)
    return wrap_module(module, input_size=(16, 16), **options)


def work_for(count=3, dtype=torch.float32, targets=None):
    inputs = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    return Batch(inputs, targets or (Rank(0),) * count, tuple(range(count)), CancelToken())


def test_channels_last_agrees():
    plain, turned = built(), built(channels_last="auto")
    assert turned.channels_last
    assert turned.module.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(
        plain.subject().layer_gradients(work_for(), "conv1"),
        turned.subject().layer_gradients(work_for(), "conv1"),
        strict=True,
    ):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)
    assert not wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), input_size=(16, 16)).channels_last


def test_folding_keeps_the_answer_and_the_names_of_layers():
    plain, folded = built(), built(fold_batch_norm=True)
    assert isinstance(folded.module.bn1, nn.Identity)
    assert isinstance(folded.module.bn2, nn.Identity)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in folded.layers]
    assert folded.digest == plain.digest
    torch.testing.assert_close(folded.subject().outputs(work_for()), plain.subject().outputs(work_for()))
    for layer in ("bn1", "bn2"):
        for one, other in zip(
            plain.subject().layer_gradients(work_for(), layer),
            folded.subject().layer_gradients(work_for(), layer),
            strict=True,
        ):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_folding_that_would_change_the_answer_is_undone():
    plain, folded = built(Shares), built(Shares, fold_batch_norm=True)
    assert isinstance(folded.module.bn1, nn.BatchNorm2d)
    assert torch.equal(folded.subject().outputs(work_for()), plain.subject().outputs(work_for()))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_ends_at_the_last_maps(precision):
    plain, narrow = built(), built(precision=precision)
    dtype = getattr(torch, precision)
    assert narrow.module.conv2.weight.dtype is dtype
    assert narrow.module.hidden.weight.dtype is torch.float32
    subject = narrow.subject()
    activations, gradients = subject.layer_gradients(work_for(targets=(ClassIndex(1),) * 3), "last-spatial")
    assert activations.dtype is gradients.dtype is subject.outputs(work_for()).dtype is torch.float32
    expected = plain.subject().layer_gradients(work_for(targets=(ClassIndex(1),) * 3), "last-spatial")
    torch.testing.assert_close(activations, expected[0], rtol=0.05, atol=0.05 * float(expected[0].abs().max()))
    torch.testing.assert_close(subject.outputs(work_for()), plain.subject().outputs(work_for()), rtol=0.05, atol=0.1)
    assert not torch.equal(activations, expected[0])


@pytest.mark.parametrize("layer", ["conv1", "relu"])
def test_lower_precision_gives_the_same_output_wherever_it_is_split(layer):
    narrow = built(precision="bfloat16")
    subject = narrow.subject()
    work = work_for()
    activations, gradients = subject.layer_gradients(work, layer)
    assert torch.equal(subject.outputs(work), narrow.subject().outputs(work))
    assert activations.dtype is gradients.dtype is torch.float32
    assert narrow.subject().input_gradients(work).dtype is torch.float32
    assert not torch.is_autocast_enabled("cpu")


# torch.compile itself looks at .grad of the tensor behind the split, which is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_models_capture():
    plain, compiled = built(), built(compile=True)
    targets = (ClassIndex(1), ClassIndex(2), Neuron("hidden", 3))
    work = work_for(targets=targets)
    torch.testing.assert_close(compiled.subject().outputs(work), plain.subject().outputs(work), rtol=1e-4, atol=1e-5)
    for layer in ("conv1", "last-spatial"):
        for one, other in zip(
            plain.subject().layer_gradients(work, layer), compiled.subject().layer_gradients(work, layer), strict=True
        ):
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        compiled.subject().input_gradients(work), plain.subject().input_gradients(work), rtol=1e-3, atol=1e-5
    )
    assert compiled.capabilities == plain.capabilities


def test_the_number_of_compiled_modules_is_bounded(monkeypatch):
    """Callers choose layers; beyond the bound the same answer comes from the module itself."""
    monkeypatch.setattr("whylight.models.model.COMPILED_SETS", 0)
    monkeypatch.setattr(torch, "compile", lambda _module: pytest.fail("nothing is to be compiled"))
    plain, compiled = built(), built(compile=True)
    for one, other in zip(
        plain.subject().layer_gradients(work_for(), "conv1"),
        compiled.subject().layer_gradients(work_for(), "conv1"),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_options_through_the_configuration(sources, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\n", encoding="utf-8")
    config = ModelConfig(
        name="tiny",
        source="python:models_factories:tiny",
        weights="random:1",
        labels=str(labels),
        input_size=(16, 24),
        fold_batch_norm=True,
        memory_budget_bytes=1 << 20,
    )
    model = open_model(config, sources, "cpu")
    assert (model.name, model.source, model.labels) == ("tiny", config.source, ("ant", "bee", "cat", "dog"))
    assert model.input_size == (16, 24)
    assert model.transform.size == (16, 24)
    assert model.budget == 1 << 20
    assert model.class_count == 4
