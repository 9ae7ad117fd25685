"""whylight.explain in a notebook: what people hand over is understood, or refused in words that help."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import whylight
from whylight.errors import InvalidInput

ONE_MAP = [whylight.MapOutput()]


def values(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_module_that_takes_one_size_only_is_prepared_at_the_size_of_its_input(channels):
    convolved = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(channels * 28 * 28, 10))
    image = values(channels, 28, 28)
    assert whylight.explain(convolved, image, target=3).explanation.map.shape == (26, 26)
    for images in (image, [image], image[None], image.numpy()):
        explained = whylight.explain(flat, images, "saliency", target=3)
        first = explained[0] if isinstance(explained, list) else explained
        assert first.explanation.map.shape == (28, 28)
        assert first.explanation.target_score == pytest.approx(float(flat(image[None])[0, 3].detach()), rel=1e-5)


def test_a_module_that_runs_on_no_size_says_so():
    with pytest.raises(InvalidInput, match="does not run on an input of shape"):
        whylight.explain(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), values(3, 28, 28), "saliency")


def test_targets_may_be_a_vector_of_labels(net):
    images = values(3, 3, 16, 16)
    for labels in (torch.tensor([3, 0, 1]), np.array([3, 0, 1]), [3, 0, 1]):
        answers = whylight.explain(net, images, target=labels, outputs=ONE_MAP)
        assert [answer.explanation.target.index for answer in answers] == [3, 0, 1]
    several = whylight.explain(net, images[0], target=range(4), outputs=ONE_MAP)
    assert [why.target.index for why in several.explanations] == [0, 1, 2, 3]
    each = whylight.explain(net, images[:2], target=torch.tensor([[0, 1], [2, 3]]), outputs=ONE_MAP)
    assert [[why.target.index for why in answer.explanations] for answer in each] == [[0, 1], [2, 3]]


def test_a_truth_value_is_no_target(net):
    for wrong in (True, [0, False]):
        with pytest.raises(TypeError, match="not bool"):
            whylight.explain(net, values(3, 16, 16), target=wrong)


@pytest.mark.parametrize("wrong", [whylight.PictureOutput(), ["map"], "map"])
def test_what_is_no_list_of_outputs_is_refused(net, wrong):
    with pytest.raises(TypeError, match="outputs are a list"):
        whylight.explain(net, values(3, 16, 16), outputs=wrong)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5])
def test_a_seed_that_no_server_takes_is_refused(net, seed):
    with pytest.raises(InvalidInput, match="seed"):
        whylight.explain(net, values(3, 16, 16), seed=seed)


def test_a_picture_of_another_layout_comes_with_a_hint(net):
    grey, planes = np.zeros((40, 50), np.uint8), np.zeros((3, 40, 50), np.uint8)
    with pytest.raises(InvalidInput, match="PIL"):
        whylight.explain(net, [grey])
    with pytest.raises(InvalidInput, match="channels come last"):
        whylight.explain(net, planes)


def test_a_method_without_a_name_is_told_so(net):
    class Nameless(whylight.Attribution):
        """It has no name."""

        def attribute(self, subject, batch, options):
            return batch.inputs.sum(1)

    class Optionless(Nameless):
        name = "optionless"
        Options = dict

    for wrong in (Nameless, Nameless()):
        with pytest.raises(TypeError, match="name"):
            whylight.explain(net, values(3, 16, 16), wrong)
    with pytest.raises(TypeError, match="Options"):
        whylight.explain(net, values(3, 16, 16), Optionless)


class Named(nn.Module):
    """Gives a dictionary of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, inputs):
        scores = self.body(inputs)
        return {"out": scores, "aux": -scores}


def test_a_module_that_gives_several_tensors_is_told_of_the_function_that_takes_a_choice():
    image = values(3, 16, 16)
    with pytest.raises(InvalidInput, match=r"dict with the parts out, aux; .*\.wrap_module\(module, output=\.\.\.\)"):
        whylight.explain(Named(), image)
    model = whylight.models.wrap_module(Named(), output="aux")
    assert whylight.explain(model, image, outputs=ONE_MAP).explanation.map.shape == (14, 14)


def test_a_name_without_its_source_is_put_right():
    for written, meant in (("resnet18", "'torchvision:resnet18'"), ("eficientnet-lite0", "'demo:efficientnet-lite0'")):
        with pytest.raises(whylight.NotFound, match=f"did you mean .*{meant}") as caught:
            whylight.explain(written, values(3, 16, 16))
        assert caught.value.reason == "MODEL_NOT_FOUND"
    with pytest.raises(whylight.NotFound, match="begin with one of demo:, timm:, torchvision:"):
        whylight.explain("no-such-thing-at-all", values(3, 16, 16))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_cannot_be_had_is_refused_in_words(net, device):
    model = whylight.models.wrap_module(net)
    for explained in (net, model, "torchvision:resnet18"):
        with pytest.raises(InvalidInput, match=f"device '?{device}|'{device}' is no device") as caught:
            whylight.explain(explained, values(3, 16, 16), device=device)
        assert [violation.field for violation in caught.value.violations] == ["device"]


def test_cuda_without_a_driver_says_what_is_missing(net, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidInput, match=r"there is no device 'cuda': (this PyTorch is built|PyTorch finds no)"):
        whylight.explain(net, values(3, 16, 16), device="cuda")
