"""Relevance against zennit and captum, and against what must hold on paper (research/methods.md, 5.2: I9, I10).

zennit is LGPL and serves here as an oracle only; it gets a copy of each network, and one thread.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import whylight
from whylight.models import wrap_module
from whylight.testing import functional_relu_net, relu_net, run_method
from whylight_gradients import InputXGradient
from whylight_relevance import LRP, DeepTaylor
from whylight_relevance.rules import STABILISER

INPUTS = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
INPUTS_OF = {"resnet18": INPUTS, "vgg16": INPUTS[..., :32, :64]}
TARGETS = [(0, 3), 4]
ROWS, CLASSES = [0, 0, 1], [0, 3, 4]


def seeded(factory, **settings):
    """Return a torchvision network in float64 with ten classes, random weights, and normalisations as if trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = factory(weights=None, num_classes=10, **settings)
        if isinstance(getattr(network, "classifier", None), nn.Sequential) and "VGG" in type(network).__name__:
            network.avgpool = nn.AdaptiveAvgPool2d((1, 2))  # With its own it has 10^8 parameters more.
            network.classifier = nn.Sequential(nn.Linear(512 * 2, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return network.eval().double()


@pytest.fixture(scope="module")
def networks():
    """ResNet-18 and VGG-16, each as it is and as our model."""
    from torchvision.models import resnet18, vgg16

    made = {"resnet18": seeded(resnet18), "vgg16": seeded(vgg16)}
    return {name: (network, wrap_module(network, input_size=(64, 96))) for name, network in made.items()}


def relevance(model, inputs=INPUTS, **options):
    return run_method(LRP, model, inputs, TARGETS, options)


def close(given, expected, tolerance):
    error = float((given - expected).abs().max() / expected.abs().max())
    assert error <= tolerance, error


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COMPOSITES = {
    "epsilon-plus": "EpsilonPlus",
    "epsilon-plus-flat": "EpsilonPlusFlat",
    "epsilon-gamma-box": "EpsilonGammaBox",
    "epsilon-alpha2-beta1": "EpsilonAlpha2Beta1",
    "epsilon-alpha2-beta1-flat": "EpsilonAlpha2Beta1Flat",
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_a_composite_is_that_of_zennit(networks, name, composite):
    pytest.importorskip("zennit")
    from zennit import composites
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    network, model = networks[name]
    oracle, inputs = copy.deepcopy(network), INPUTS_OF[name]
    settings = {"canonizers": [ResNetCanonizer() if name == "resnet18" else VGGCanonizer()]}
    if composite == "epsilon-gamma-box":
        mean, std = (torch.tensor(one, dtype=torch.float64).view(1, 3, 1, 1) for one in (MEAN, STD))
        settings |= {"low": -mean / std, "high": (1 - mean) / std}
        model = wrap_module(network, transform=whylight.Transform(None, (64, 96), mean=MEAN, std=STD))
    with getattr(composites, COMPOSITES[composite])(stabilizer=STABILISER, **settings).context(oracle) as hooked:
        for module in hooked.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0  # zennit merges it into the convolution, and leaves it where it was merged from
        expected = []
        for row, index in zip(ROWS, CLASSES, strict=True):
            leaf = inputs[row : row + 1].clone().requires_grad_()
            output = hooked(leaf)
            seed = torch.zeros_like(output)
            seed[0, index] = output[0, index].detach()
            expected.append(torch.autograd.grad(output, leaf, seed)[0].sum(1)[0])
    close(relevance(model, inputs, composite=composite).maps, torch.stack(expected), 1e-9)


def residual_networks():
    from torchvision.models import densenet121, googlenet

    return {
        "densenet121": lambda: seeded(densenet121),
        "googlenet": lambda: seeded(googlenet, aux_logits=False, init_weights=False, transform_input=True),
    }


def check_input_times_gradient(model, inputs=INPUTS):
    """LRP-0 goes back by `x ∂z/∂x R / z`: by induction, its relevance is everywhere the value times its gradient."""
    expected = run_method(InputXGradient, model, inputs, TARGETS).maps
    close(relevance(model, inputs, composite="zero").maps, expected, 1e-9)
    close(relevance(model, inputs, composite="epsilon", epsilon=1e-15).maps, expected, 1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_i9_without_epsilon_it_is_input_times_gradient(networks, name):
    check_input_times_gradient(networks[name][1], INPUTS_OF[name])


@pytest.mark.parametrize("name", ["densenet121", "googlenet"])
def test_i9_holds_for_concatenations_and_normalisations_that_follow_no_convolution(name):
    check_input_times_gradient(wrap_module(residual_networks()[name](), input_size=(64, 96)))


@pytest.mark.parametrize("network", [relu_net, functional_relu_net])
def test_i9_holds_for_functions_in_place(network):
    check_input_times_gradient(wrap_module(network().double()))


@pytest.mark.parametrize(
    ("composite", "tolerance"),
    [
        ("zero", 1e-9),
        ("epsilon", 1e-3),
        ("epsilon-plus", 1e-3),
        ("epsilon-plus-flat", 1e-3),
        ("epsilon-alpha2-beta1", 1e-3),
        ("epsilon-gamma-box", 1e-3),
    ],
)
def test_i10_relevance_is_conserved_without_biases(composite, tolerance):
    given = relevance(wrap_module(relu_net(bias=False).double()), composite=composite)
    ratio = given.checks["conservation_ratio"]
    torch.testing.assert_close(ratio, torch.ones(3, dtype=torch.float64), rtol=0, atol=tolerance)


def test_deep_taylor_conserves_relevance_whatever_the_biases():
    given = run_method(DeepTaylor, relu_net().double(), INPUTS.clamp(-1, 1), TARGETS)
    torch.testing.assert_close(
        given.checks["conservation_ratio"], torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5
    )
