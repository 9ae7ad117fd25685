"""The randomisation check on a trained network (I16), and the randomised copy, which leaves the served model alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import whylight
from whylight.models import Model, ModelConfig, Transform, open_model, wrap_module
from whylight.models.randomised import last_layers
from whylight.plugins import Plugins
from whylight.testing import conv_gap_net, fingerprint


@pytest.fixture(scope="module")
def resnet() -> Model:
    plugins = Plugins()
    plugins.load()
    config = ModelConfig(name="r", source="torchvision:resnet18", weights="random:0", input_size=(64, 96))
    return open_model(config, plugins.sources, "cpu")


def test_grad_cam_depends_on_the_last_layer_and_guided_backprop_hardly_does(resnet: Model) -> None:
    """Adebayo et al. 2018: guided backpropagation shows the picture's edges, whatever the classes mean."""
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found = whylight.evaluate(resnet, image, ["grad-cam", "guided-backprop"], "randomisation", target=[3, 5])
    cam, guided = ([result.explanations[method].measurements[0].value for result in found.results] for method in (0, 1))
    assert max(cam) < 0.5
    assert min(guided) > 0.6
    assert [one.method for one in found.overall.methods] == ["grad-cam", "guided-backprop"]


def test_a_randomised_copy_shares_all_but_its_last_layers(resnet: Model) -> None:
    before = fingerprint(resnet.module)
    copy = resnet.randomised(1, layers=2)
    assert last_layers(resnet, 2) == ("fc", "layer4.1.conv2")
    own, served = dict(copy.module.named_parameters()), dict(resnet.module.named_parameters())
    changed = {name for name in served if own[name].data_ptr() != served[name].data_ptr()}
    assert changed == {"fc.weight", "fc.bias", "layer4.1.conv2.weight"}
    for name in changed:
        assert float(own[name].std()) == pytest.approx(float(served[name].std()), rel=0.2)
        assert not torch.equal(own[name], served[name])
    assert fingerprint(resnet.module) == before


def test_attentions_last_projection_is_drawn_anew_with_it() -> None:
    """`nn.MultiheadAttention` uses its weights itself: as a layer it never runs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = Attending().eval()
    model = wrap_module(attention, transform=Transform.plain((16, 16), 3))
    assert last_layers(model, 3) == ("head", "attention", "stem")
    own, served = (dict(one.module.named_parameters()) for one in (model.randomised(0, layers=2), model))
    changed = {name for name in served if not torch.equal(own[name], served[name])}
    assert {"head.weight", "attention.in_proj_weight", "attention.out_proj.weight"} <= changed
    assert not any(name.startswith("stem") for name in changed)


class Attending(nn.Module):
    """Attention over the patches of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(inputs).flatten(2).transpose(1, 2)
        scores: torch.Tensor = self.head(self.attention(tokens, tokens, tokens)[0].mean(1))
        return scores


def test_a_randomised_copy_is_made_once_for_a_seed(resnet: Model) -> None:
    assert resnet.randomised(7) is resnet.randomised(7)
    one, other = resnet.randomised(7).module.fc.weight, resnet.randomised(8).module.fc.weight
    assert not torch.equal(one, other)
    for seed in range(20, 24):
        resnet.randomised(seed)
    assert torch.equal(resnet.randomised(7).module.fc.weight, one)  # made again, the same


def test_the_closed_form_of_the_head_follows_the_copy() -> None:
    """Grad-CAM behind a pooling head asks no backward pass: its weights must be the copy's."""
    model = wrap_module(conv_gap_net(), transform=Transform.plain((32, 48), 3))
    copy = model.randomised(0)
    assert model.head is not None
    assert copy.head is not None
    assert not torch.equal(model.head.weight, copy.head.weight)
    inputs = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.allclose(copy.run(inputs).output, copy.module(inputs))
