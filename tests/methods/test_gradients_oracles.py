"""Gradient methods against captum on real architectures, in float64, to 1e-5 of the largest; random draws are shared.

Where captum is wrong it is no oracle: it does not see ReLU called as a function (GoogLeNet, DenseNet), which an
independent formulation by tensor hooks does; nor modules used twice in DeepLift (ResNet).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from whylight.models import Model, Transform, wrap_module
from whylight.testing import run_method
from whylight.testing.running import batch_of
from whylight_gradients import (
    Deconvnet,
    DeepLift,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
    Taylor,
    VarGrad,
)
from whylight_gradients.draws import Draws

attr = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum.*", "ignore:.*hooks and attributes:UserWarning")

SIZE = (64, 96)
CLASSES = [7, 301]
SEEDS = [3, 4]


@dataclass(frozen=True)
class Pair:
    """A network as our model, and as a copy that an oracle may hook, with nothing in place."""

    model: Model
    oracle: nn.Module


def pair(name):
    import torchvision

    more = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = getattr(torchvision.models, name)(weights=None, **more)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    network = network.double().eval()
    oracle = copy.deepcopy(network)
    for module in oracle.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return Pair(wrap_module(network, transform=Transform.plain(SIZE), input_size=SIZE), oracle)


@pytest.fixture(scope="module")
def networks():
    """Each architecture made when it is first asked for, and kept for the module."""
    made = {}

    def network(name):
        if name not in made:
            made[name] = pair(name)
        return made[name]

    return network


@pytest.fixture(scope="module")
def inputs():
    noise = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return F.interpolate(noise, SIZE, mode="bilinear")


def agree(ours, theirs):
    theirs = theirs.detach()
    assert ours.shape == theirs.shape
    assert float(theirs.abs().max()) > 0
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet121", "convnext_tiny"])
def test_saliency_and_input_times_gradient(networks, inputs, name):
    network = networks(name)
    given = attr.Saliency(network.oracle).attribute(inputs.clone().requires_grad_(), target=CLASSES, abs=False)
    agree(run_method(Saliency, network.model, inputs, CLASSES).maps, given.abs().amax(1))
    agree(run_method(Saliency, network.model, inputs, CLASSES, {"reduce": "signed"}).maps, given.sum(1))
    product = attr.InputXGradient(network.oracle).attribute(inputs.clone().requires_grad_(), target=CLASSES)
    agree(run_method(InputXGradient, network.model, inputs, CLASSES).maps, product.sum(1))


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "mobilenet_v3_small"])
@pytest.mark.parametrize(("method", "theirs"), [(GuidedBackprop, "GuidedBackprop"), (Deconvnet, "Deconvolution")])
def test_guided_backprop_and_deconvnet(networks, inputs, name, method, theirs):
    network = networks(name)
    given = getattr(attr, theirs)(network.oracle).attribute(inputs.clone().requires_grad_(), target=CLASSES)
    agree(run_method(method, network.model, inputs, CLASSES).maps, given.abs().amax(1))
    agree(run_method(method, network.model, inputs, CLASSES, {"reduce": "signed"}).maps, given.sum(1))


@pytest.mark.parametrize("name", ["googlenet", "densenet121"])
def test_guided_backprop_where_relu_is_a_function(networks, inputs, name, monkeypatch):
    """Against ReLU with a tensor hook that keeps what is positive: `R' > 0`, then its own derivative."""
    network = networks(name)

    def guided(given, inplace=False):
        output = torch.relu(given)
        output.register_hook(lambda gradient: gradient.clamp(min=0))
        return output

    leaf = inputs.clone().requires_grad_()
    with monkeypatch.context() as patch:
        patch.setattr(F, "relu", guided)
        scores = network.oracle(leaf)
    (expected,) = torch.autograd.grad(scores[0, 7] + scores[1, 301], leaf)
    agree(run_method(GuidedBackprop, network.model, inputs, CLASSES).maps, expected.abs().amax(1))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
@pytest.mark.parametrize(("rule", "theirs"), [("gauss-legendre", "gausslegendre"), ("riemann-right", "riemann_right")])
def test_integrated_gradients(networks, inputs, name, rule, theirs):
    network = networks(name)
    given = attr.IntegratedGradients(network.oracle).attribute(
        inputs, baselines=0.0, target=CLASSES, n_steps=3, method=theirs
    )
    ours = run_method(IntegratedGradients, network.model, inputs, CLASSES, {"steps": 3, "rule": rule})
    agree(ours.maps, given.sum(1))
    with torch.no_grad():
        scores, dark = network.oracle(inputs), network.oracle(torch.zeros_like(inputs))
    difference = torch.stack([(scores - dark)[0, 7], (scores - dark)[1, 301]])
    torch.testing.assert_close(ours.checks["score_difference"], difference, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(
        ours.checks["completeness_residual"], given.sum((1, 2, 3)).detach() - difference, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("rule", ["riemann-left", "riemann-middle"])
def test_integrated_gradients_by_the_other_riemann_sums(networks, inputs, rule):
    network = networks("resnet18")
    options = {"steps": 4, "rule": rule, "baseline": "mean"}
    grey = torch.full_like(inputs[:1], 0.5)
    flat = inputs[:1] - inputs[:1].mean((2, 3), keepdim=True) + 0.5
    theirs = attr.IntegratedGradients(network.oracle).attribute(
        flat, baselines=grey, target=7, n_steps=4, method=rule.replace("-", "_")
    )
    agree(run_method(IntegratedGradients, network.model, flat, [7], options).maps, theirs.sum(1))


def our_noise(inputs, samples, monkeypatch):
    """Make captum's noise ours: each input's copies lie side by side there."""
    draws = Draws(batch_of(inputs, [0] * len(inputs), seeds=SEEDS[: len(inputs)]), samples)
    noise = torch.stack([draws.normal(inputs, k) for k in range(samples)], 1).flatten(0, 1)
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: mean + deviation * noise)


BASES = {
    "saliency": (lambda net: attr.Saliency(net), {"abs": False}),
    "guided-backprop": (lambda net: attr.GuidedBackprop(net), {}),
    "deconvnet": (lambda net: attr.Deconvolution(net), {}),
    "input-x-gradient": (lambda net: attr.InputXGradient(net), {}),
    "integrated-gradients": (lambda net: attr.IntegratedGradients(net), {"baselines": 0.0, "n_steps": 3}),
}


@pytest.mark.parametrize(
    ("name", "base"),
    [*((name, base) for name in ("resnet18", "mobilenet_v3_small") for base in BASES), ("vgg16", "guided-backprop")],
)
def test_noisy_copies_of_every_base(networks, inputs, name, base, monkeypatch):
    """SmoothGrad, its square and VarGrad, with the same noise."""
    network, one = networks(name), inputs[:1]
    our_noise(one, 3, monkeypatch)
    make, more = BASES[base]
    deviation = float(0.2 * (one.max() - one.min()))
    options = {"base": base, "samples": 3, "noise": 0.2, "steps": 3}
    signed = base in ("input-x-gradient", "integrated-gradients")
    for method, kind, extra in (
        (SmoothGrad, "smoothgrad", {}),
        (SmoothGrad, "smoothgrad_sq", {"squared": True}),
        (VarGrad, "vargrad", {}),
    ):
        theirs = attr.NoiseTunnel(make(network.oracle)).attribute(
            one.clone().requires_grad_(), nt_type=kind, nt_samples=3, stdevs=deviation, target=7, **more
        )
        ours = run_method(method, network.model, one, [7], {**options, **extra}, seeds=SEEDS[:1]).maps
        agree(ours, theirs.sum(1) if signed else theirs.abs().amax(1))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
def test_gradient_shap(networks, inputs, name, monkeypatch):
    """With the same noise and the same places on the paths."""
    network, samples = networks(name), 4
    draws = Draws(batch_of(inputs, CLASSES, seeds=SEEDS), samples)
    places, noise = [], []
    for row, input in enumerate(inputs):
        for copied in range(samples):
            source = draws.generator(row, copied)
            places.append(float(torch.empty(1, dtype=torch.float64).uniform_(generator=source)))
            noise.append(torch.empty_like(input).normal_(generator=source))
    monkeypatch.setattr(np.random, "uniform", lambda low, high, count: np.array(places))
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: mean + deviation * torch.stack(noise))
    # Captum takes one deviation for all inputs: both have the same range.
    inputs = (inputs - inputs.amin((1, 2, 3), keepdim=True)) / (
        inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True)
    )
    theirs = attr.GradientShap(network.oracle).attribute(
        inputs, baselines=torch.zeros_like(inputs[:1]), n_samples=samples, stdevs=0.1, target=CLASSES
    )
    options = {"samples": samples, "noise": 0.1, "baselines": ["black"]}
    ours = run_method(GradientShap, network.model, inputs, CLASSES, options, seeds=SEEDS)
    agree(ours.maps, theirs.sum(1))


def test_deeplift_of_vgg(networks, inputs):
    network = networks("vgg16")
    theirs = attr.DeepLift(copy.deepcopy(network.oracle)).attribute(
        inputs, baselines=torch.zeros_like(inputs), target=CLASSES
    )
    agree(run_method(DeepLift, network.model, inputs, CLASSES).maps, theirs.sum(1))


@pytest.mark.parametrize(
    "activation", [nn.ELU(), nn.Tanh(), nn.LeakyReLU(0.2), nn.Softplus(), nn.Sigmoid(), nn.MaxPool2d(2)], ids=repr
)
def test_deeplift_of_one_activation(inputs, activation):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, last = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(96, 310)
    network = nn.Sequential(first, activation, nn.AdaptiveAvgPool2d(4), nn.Flatten(), last).double().eval()
    theirs = attr.DeepLift(copy.deepcopy(network)).attribute(
        3 * inputs, baselines=torch.zeros_like(inputs), target=CLASSES
    )
    ours = run_method(DeepLift, network, 3 * inputs, CLASSES, {"baseline": "zero", "profile": "captum"})
    agree(ours.maps, theirs.sum(1))


@pytest.mark.parametrize("pool", [(2, 2), (3, 2)])
def test_deeplift_of_an_activation_and_a_max_pooling(inputs, pool):
    """Against the two rules written out. Captum is no oracle here: it loses what a maximum falls by, and what
    overlapping windows share; its maps do not even sum to the difference then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ELU(),
            nn.MaxPool2d(*pool),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(96, 310),
        )
    network = network.double().eval()
    start = inputs.mean((2, 3), keepdim=True).expand_as(inputs)
    with torch.no_grad():
        hidden, hidden_there = network[0](inputs), network[0](start)
        active, active_there = F.elu(hidden), F.elu(hidden_there)
        pooled, places = F.max_pool2d(active, *pool, return_indices=True)
        pooled_there, places_there = F.max_pool2d(active_there, *pool, return_indices=True)
        highest = torch.maximum(pooled, pooled_there)
    leaf = pooled.clone().requires_grad_()
    scores = network[3:](leaf)
    (back,) = torch.autograd.grad(scores[0, 7] + scores[1, 301], leaf)
    sums = torch.zeros_like(active).flatten(2)
    sums.scatter_add_(2, places.flatten(2), (back * (highest - pooled_there)).flatten(2))
    sums.scatter_add_(2, places_there.flatten(2), (back * (pooled - highest)).flatten(2))
    multipliers = sums.reshape(active.shape) / (hidden - hidden_there)
    multipliers = F.conv_transpose2d(multipliers, network[0].weight, padding=1)
    ours = run_method(DeepLift, network, inputs, CLASSES, {"baseline": "mean"})
    agree(ours.maps, ((inputs - start) * multipliers).sum(1))
    assert float(ours.checks["completeness_residual"].abs().max()) < 1e-12


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_taylor_from_zero_is_input_times_gradient(networks, inputs, name):
    network = networks(name)
    theirs = attr.InputXGradient(network.oracle).attribute(inputs.clone().requires_grad_(), target=CLASSES)
    agree(run_method(Taylor, network.model, inputs, CLASSES, {"root": "black"}).maps, theirs.sum(1))


class OneConvolution(nn.Module):
    """Captum's BasicModel_ConvNet_One_Conv."""

    def __init__(self):
        super().__init__()
        self.convolution, self.relu, self.linear = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(8, 4)
        for parameter in self.parameters():
            parameter.data.fill_(1.0)
        self.convolution.bias.data.copy_(torch.tensor([-50.0, -75.0]))
        self.linear.weight.data[:, 5:] = -1.0
        self.linear.bias.data.zero_()

    def forward(self, inputs):
        return F.relu(self.linear(self.relu(self.convolution(inputs)).flatten(1)))


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        (GuidedBackprop, [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]),
        (Deconvnet, [[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]]),
    ],
)
def test_the_numbers_of_captums_own_tests(method, rows):
    inputs = 1 + torch.arange(16.0, dtype=torch.float64).reshape(1, 1, 4, 4)  # theirs are two, added up
    model = wrap_module(OneConvolution().double().eval(), transform=Transform.plain((4, 4), 1), input_size=(4, 4))
    maps = run_method(method, model, inputs, [0], {"reduce": "signed"}).maps
    assert maps[0].tolist() == rows


def test_relu6_is_guided_where_captum_leaves_it(inputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 3)
    network = nn.Sequential(*layers).double().eval()
    plain = torch.autograd.grad(network(leaf := inputs.clone().requires_grad_())[:, 1].sum(), leaf)[0]
    theirs = attr.GuidedBackprop(copy.deepcopy(network)).attribute(inputs.clone().requires_grad_(), target=1)
    torch.testing.assert_close(theirs.detach(), plain)
    ours = run_method(GuidedBackprop, network, inputs, [1, 1], {"reduce": "signed"}).maps
    assert not torch.allclose(ours, plain.sum(1))
