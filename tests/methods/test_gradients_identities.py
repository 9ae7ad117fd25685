"""Identities of the gradient methods, in float64: sums, limits and special cases that need no other library."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whylight
from whylight.models import Transform, wrap_module
from whylight.subject import CancelToken
from whylight.testing import conv_gap_net, functional_relu_net, relu_net, run_method, tiny_vit
from whylight.testing.running import batch_of
from whylight_gradients import (
    Deconvnet,
    DeepLift,
    ExpectedGradients,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
    Taylor,
    VarGrad,
)
from whylight_gradients.baselines import baseline
from whylight_gradients.quadrature import nodes

RULES = ["gauss-legendre", "riemann-left", "riemann-middle", "riemann-right", "trapezoid"]
INPUTS = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
TARGETS = [(0, 3), 2]


def close(ours, expected, rtol=1e-10, atol=1e-13):
    torch.testing.assert_close(ours, expected.detach(), rtol=rtol, atol=atol)


class Linear(nn.Module):
    """Scores that are linear in the pixels."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(
            torch.randn(5, 3, 24, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        )

    def forward(self, inputs):
        return torch.einsum("nchw,kchw->nk", inputs, self.weights) + 1


def linear():
    return wrap_module(Linear(), transform=Transform.plain((24, 32)), input_size=(24, 32))


@pytest.mark.parametrize("rule", RULES)
def test_the_weights_of_a_rule_sum_to_one_and_it_is_exact_for_what_it_should(rule):
    for steps in (2, 5, 8):
        found = nodes(rule, steps)
        assert len(found) == steps
        assert sum(node.weight for node in found) == pytest.approx(1, abs=1e-14)
        degree = {"gauss-legendre": 2 * steps - 1, "riemann-middle": 1, "trapezoid": 1}.get(rule, 0)
        for power in range(degree + 1):
            assert sum(node.weight * node.place**power for node in found) == pytest.approx(1 / (power + 1), abs=1e-13)


@pytest.mark.parametrize("method", [IntegratedGradients, DeepLift, Taylor])
@pytest.mark.parametrize("name", ["zero", "black", "white", "mean", "blur"])
def test_i7_a_linear_network_is_divided_up_exactly(method, name):
    model = linear()
    batch = batch_of(INPUTS, TARGETS)
    way = INPUTS - baseline(model.subject(), batch, name)
    options = {"root" if method is Taylor else "baseline": name}
    found = run_method(method, model, INPUTS, TARGETS, options)
    weights = model.module.weights[[0, 3, 2]]
    close(found.maps, (way[[0, 0, 1]] * weights).sum(1), rtol=1e-9, atol=1e-12)
    close(found.checks["completeness_residual"], torch.zeros(3, dtype=torch.float64), atol=1e-10)
    assert float(found.checks["score_difference"].abs().min()) > 0.1


@pytest.mark.parametrize("rule", RULES)
def test_i7_the_residual_says_what_is_amiss_and_shrinks(rule):
    residuals = []
    for steps in (4, 64):
        found = run_method(
            IntegratedGradients, functional_relu_net().double(), INPUTS, TARGETS, {"rule": rule, "steps": steps}
        )
        checks = found.checks
        close(
            checks["completeness_residual"], found.maps.sum((1, 2)) - checks["score_difference"], rtol=1e-6, atol=1e-12
        )
        residuals.append(float(checks["completeness_residual"].abs().sum()))
        scale = float(checks["score_difference"].abs().sum())
    assert residuals[1] < residuals[0]
    assert residuals[1] < 0.05 * scale


def test_i9_taylor_and_integrated_gradients_of_a_network_without_biases_are_input_times_gradient():
    """Along the way from zero such a network has the same slopes everywhere."""
    network = relu_net(bias=False).double()
    plain = run_method(InputXGradient, network, INPUTS, TARGETS).maps
    close(run_method(Taylor, network, INPUTS, TARGETS, {"root": "zero"}).maps, plain)
    found = run_method(IntegratedGradients, network, INPUTS, TARGETS, {"baseline": "zero", "steps": 3})
    close(found.maps, plain)
    close(found.checks["completeness_residual"], torch.zeros(3, dtype=torch.float64), atol=1e-12)
    deeplift = run_method(DeepLift, network, INPUTS, TARGETS, {"baseline": "zero"})
    close(deeplift.maps, plain)
    scores = torch.stack([network(INPUTS)[0, 0], network(INPUTS)[0, 3], network(INPUTS)[1, 2]])
    close(deeplift.maps.sum((1, 2)), scores)


def test_taylor_takes_the_gradient_where_it_is_told_and_finds_the_root():
    network = relu_net().double()
    model = wrap_module(network)
    far = baseline(model.subject(), batch_of(INPUTS, [1, 1]), "blur")
    leaf = far.clone().requires_grad_()
    (slope,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    found = run_method(Taylor, model, INPUTS, [1, 1], {"root": "blur", "gradient_at": "root"})
    close(found.maps, ((INPUTS - far) * slope).sum(1))
    close(found.checks["root_score"], network(far)[:, 1])


def test_taylor_goes_as_far_as_the_target_falls_to_zero():
    model = linear()
    with torch.no_grad():
        scores = model.module(INPUTS)
    target = [int(scores[row].argmax()) for row in range(2)]
    plain = run_method(Taylor, model, INPUTS, target, {"root": "zero"})
    found = run_method(Taylor, model, INPUTS, target, {"root": "zero", "search": True})
    chosen = scores[[0, 1], target]
    # The score at zero is the bias, 1: the root lies beyond, and the search ends at zero.
    close(found.maps, plain.maps)
    shifted = Shifted(model.module, 2.0)
    found = run_method(
        Taylor, wrap_module(shifted, input_size=(24, 32)), INPUTS, target, {"root": "zero", "search": True}
    )
    assert (found.checks["root_score"] <= 0).all()
    assert (found.checks["root_score"].abs() <= chosen / 4096 * 1.01).all()
    close(found.maps, plain.maps * ((chosen - 2) / (chosen - 1))[:, None, None], rtol=1e-3)


class Shifted(nn.Module):
    """A network whose scores are lowered."""

    def __init__(self, network, by):
        super().__init__()
        self.network, self.by = network, by

    def forward(self, inputs):
        return self.network(inputs) - self.by


@pytest.mark.parametrize(
    ("base", "method", "options"),
    [
        ("saliency", Saliency, {}),
        ("guided-backprop", GuidedBackprop, {}),
        ("deconvnet", Deconvnet, {}),
        ("input-x-gradient", InputXGradient, {}),
        ("integrated-gradients", IntegratedGradients, {"steps": 4, "baseline": "blur"}),
    ],
)
def test_i14_without_noise_smoothgrad_is_its_base_and_vargrad_nothing(base, method, options):
    network = functional_relu_net().double()
    plain = run_method(method, network, INPUTS, TARGETS, options).maps
    still = {"base": base, "noise": 0, "samples": 3, **options}
    assert float(plain.abs().max()) > 0
    close(run_method(SmoothGrad, network, INPUTS, TARGETS, still).maps, plain)
    assert float(run_method(VarGrad, network, INPUTS, TARGETS, still).maps.abs().max()) == 0


def test_smoothgrad_of_a_linear_network_is_its_gradient_whatever_the_noise():
    model = linear()
    maps = run_method(SmoothGrad, model, INPUTS, TARGETS, {"samples": 4, "noise": 0.5, "reduce": "signed"}).maps
    close(maps, model.module.weights[[0, 3, 2]].sum(1))
    assert float(run_method(VarGrad, model, INPUTS, TARGETS, {"samples": 4, "noise": 0.5}).maps.abs().max()) < 1e-25


def test_the_noise_has_the_deviation_that_was_asked_for():
    """Input times gradient of a linear network shows the noise itself."""
    ramp = torch.linspace(-1, 3, 24 * 32, dtype=torch.float64).reshape(1, 1, 24, 32).expand(1, 3, 24, 32)
    model = linear()
    variance = run_method(
        VarGrad, model, ramp, [0], {"base": "input-x-gradient", "samples": 60, "noise": 0.25, "reduce": "signed"}
    ).maps
    expected = model.module.weights[0].square().sum(0) * (0.25 * 4) ** 2
    assert float((variance[0] / expected).mean()) == pytest.approx(59 / 60, rel=0.03)


@pytest.mark.parametrize("method", [GradientShap, ExpectedGradients])
def test_expected_gradients_of_a_linear_network(method):
    """Its gradient is the same everywhere: only the drawn ends matter, and sums are exact but for the noise."""
    model = linear()
    options = {"samples": 6, "baselines": ["mean", "white", "shuffle"]}
    if method is GradientShap:
        options["noise"] = 0.0
    found = run_method(method, model, INPUTS, TARGETS, options)
    close(found.checks["completeness_residual"], torch.zeros(3, dtype=torch.float64), atol=1e-10)
    assert float(found.checks["score_difference"].abs().min()) > 0.1


def test_gradient_shap_without_noise_is_expected_gradients_of_the_same_draws():
    network = relu_net().double()
    options = {"samples": 5, "baselines": ["black", "noise"]}
    one = run_method(GradientShap, network, INPUTS, TARGETS, {**options, "noise": 0})
    other = run_method(ExpectedGradients, network, INPUTS, TARGETS, options)
    assert torch.equal(one.maps, other.maps)
    more = run_method(ExpectedGradients, network, INPUTS, TARGETS, {**options, "samples": 400})
    exact = run_method(
        IntegratedGradients, network, INPUTS, TARGETS, {"baseline": "black", "steps": 100}
    )  # one of the two ends that are drawn
    relative = more.checks["completeness_residual"].abs().sum() / more.checks["score_difference"].abs().sum()
    assert float(relative) < 0.1
    assert not torch.allclose(more.maps, exact.maps)


def test_baselines_are_what_they_are_called():
    transform = Transform((24, 32), None, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), channel_order="bgr")
    model = wrap_module(conv_gap_net().double(), transform=transform, input_size=(24, 32))
    batch = batch_of(INPUTS, [0, 0])
    images = {name: baseline(model.subject(), batch, name) for name in ("zero", "black", "white", "mean", "blur")}
    drawn = {name: baseline(model.subject(), batch, name) for name in ("noise", "shuffle")}
    assert not images["zero"].any()
    close(images["black"][0, :, 5, 6], torch.tensor([-2.5, -1.6, -0.6], dtype=torch.float64))
    close(images["white"][1, :, 0, 0], torch.tensor([2.5, 2.4, 1.4], dtype=torch.float64))
    close(images["mean"], INPUTS.mean((2, 3), keepdim=True).expand_as(INPUTS))
    assert float(images["blur"].std()) < 0.3 * float(INPUTS.std())
    flat = torch.ones_like(INPUTS)
    close(baseline(model.subject(), batch_of(flat, [0, 0]), "blur"), flat)
    unit = transform.to_unit(drawn["noise"])
    assert 0 <= float(unit.min()) < 0.01
    assert 0.99 < float(unit.max()) <= 1
    for one, other in zip(drawn["shuffle"], INPUTS, strict=True):
        assert not torch.equal(one, other)
        assert torch.equal(one.flatten(1).sort(1).values, other.flatten(1).sort(1).values)


class Gated(nn.Module):
    """A gate, layer normalisation, attention, and activations in place: what real networks multiply and divide."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.gate = nn.Conv2d(8, 8, 1)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden = nn.Linear(8, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, inputs):
        stem = F.silu(self.stem(inputs), inplace=True)
        stem = stem * self.gate(stem.mean((2, 3), keepdim=True)).sigmoid_()
        tokens = self.norm(stem.flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(F.gelu(self.hidden(tokens)).amax(1)) ** 3


@pytest.mark.parametrize("make", [relu_net, functional_relu_net, conv_gap_net, Gated])
@pytest.mark.parametrize("name", ["black", "blur"])
def test_deeplift_divides_the_whole_difference_up(make, name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = make().double().eval()
    found = run_method(DeepLift, network, INPUTS, TARGETS, {"baseline": name})
    assert float(found.checks["score_difference"].abs().min()) > 1e-6
    close(found.checks["completeness_residual"], torch.zeros(3, dtype=torch.float64), atol=1e-10)
    with torch.no_grad():
        start = baseline(wrap_module(network).subject(), batch_of(INPUTS, TARGETS), name)
        rows, classes = [0, 0, 1], [0, 3, 2]
        difference = (network(INPUTS) - network(start))[rows, classes]
    close(found.checks["score_difference"], difference, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet_v3_small", "convnext_tiny"])
def test_deeplift_divides_real_networks_up(name):
    import torchvision

    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = getattr(torchvision.models, name)(weights=None, **more).double().eval()
    inputs = F.interpolate(INPUTS[:1], (64, 96), mode="bilinear")
    # Not from black: without biases it is zero everywhere inside, where layer normalisation magnifies rounding.
    found = run_method(DeepLift, wrap_module(network, input_size=(64, 96)), inputs, [7], {"baseline": "white"})
    difference = float(found.checks["score_difference"])
    assert abs(float(found.checks["completeness_residual"])) < 1e-6 * abs(difference)


def test_deeplift_under_a_budget_of_one_row():
    network = relu_net()
    wide, tight = wrap_module(network), wrap_module(network, memory_budget_bytes=1)
    inputs = INPUTS.float()
    assert tight.max_rows() == 1
    assert torch.equal(
        run_method(DeepLift, wide, inputs, TARGETS).maps, run_method(DeepLift, tight, inputs, TARGETS).maps
    )


def test_deeplift_in_parts_gives_the_bits_of_each_input_alone():
    """More inputs than a pass takes on a CPU, some with several targets."""
    inputs = torch.randn(18, 3, 24, 32, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    model = wrap_module(relu_net().double())
    assert model.subject().rows_with_gradients() < len(inputs)
    found = run_method(DeepLift, model, inputs, [(0, 2), *[1] * 16, (3, 1)])
    ends = [0, 1, 18, 19]
    alone = [
        run_method(DeepLift, model, inputs[row : row + 1], [targets]) for row, targets in ((0, (0, 2)), (17, (3, 1)))
    ]
    assert torch.equal(found.maps[ends], torch.cat([one.maps for one in alone]))
    for name in ("score_difference", "completeness_residual"):
        assert torch.equal(found.checks[name][ends], torch.cat([one.checks[name] for one in alone]))


def test_deeplift_divides_attention_up():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = tiny_vit().double().eval()
    size = network(torch.zeros(1, 3, 32, 32, dtype=torch.float64)).shape[1]
    inputs = F.interpolate(INPUTS[:1], (32, 32), mode="bilinear")
    found = run_method(DeepLift, wrap_module(network, input_size=(32, 32)), inputs, [size - 1], {"baseline": "blur"})
    close(found.checks["completeness_residual"], torch.zeros(1, dtype=torch.float64), atol=1e-9)
    assert abs(float(found.checks["score_difference"])) > 1e-6


class Deciding(nn.Module):
    """Computes bright inputs in another way than dark ones."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)

    def forward(self, inputs):
        features = self.features(inputs)
        features = features.relu() if inputs.mean() > 0.5 else features.sigmoid()
        return features.mean((2, 3))


def test_deeplift_refuses_a_network_that_computes_otherwise_for_the_baseline():
    with pytest.raises(whylight.Unsupported, match="in another way for the input than for the baseline"):
        run_method(DeepLift, wrap_module(Deciding()), INPUTS[:1].float() + 1, [0], {"baseline": "zero"})


METHODS = {
    Taylor: {"search": True},
    GuidedBackprop: {},
    Deconvnet: {},
    IntegratedGradients: {"steps": 3},
    SmoothGrad: {"samples": 2, "base": "guided-backprop"},
    VarGrad: {"samples": 2},
    GradientShap: {"samples": 2},
    ExpectedGradients: {"samples": 2},
    DeepLift: {},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_bfloat16(method):
    """Maps are wide and point the way of those in float32; how near depends on the sums."""
    options = METHODS[method]
    inputs = INPUTS.float()
    wide = run_method(method, conv_gap_net(), inputs, [0, 1], options).maps
    narrow = run_method(method, wrap_module(conv_gap_net(), precision="bfloat16"), inputs, [0, 1], options).maps
    assert narrow.dtype == torch.float32
    for one, other in zip(wide, narrow, strict=True):
        assert float(F.cosine_similarity(one.flatten(), other.flatten(), dim=0)) > 0.97


@pytest.mark.parametrize("method", [SmoothGrad, VarGrad])
@pytest.mark.parametrize("base", ["guided-backprop", "deconvnet"])
def test_a_base_that_needs_relu_is_refused_where_there_is_none(method, base):
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(whylight.Unsupported, match=f"base {base} needs a network with ReLU") as caught:
        run_method(method, network, INPUTS.float(), [0, 1], {"base": base, "samples": 2})
    assert caught.value.violations[0].field == "options.base"


@pytest.mark.parametrize(
    ("method", "options", "steps"),
    [
        (IntegratedGradients, {"steps": 5}, 5),
        (SmoothGrad, {"samples": 4}, 4),
        (VarGrad, {"samples": 4}, 4),
        (ExpectedGradients, {"samples": 3}, 3),
    ],
)
def test_they_say_how_far_they_are_with_the_maps_so_far(method, options, steps):
    said = []
    batch = batch_of(INPUTS, TARGETS)
    batch = dataclasses.replace(
        batch, cancel=CancelToken(), progress=lambda done, total, maps: said.append((done, total, maps.clone()))
    )
    maps = method().attribute(wrap_module(relu_net().double()).subject(), batch, method.Options(**options))
    maps = maps.maps if isinstance(maps, whylight.Maps) else maps
    assert [(done, total) for done, total, _ in said] == [(k + 1, steps) for k in range(steps)]
    assert torch.equal(said[-1][2], maps)
    assert not torch.equal(said[0][2], maps)


# torch.compile itself looks at .grad of tensors that are not leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_model_is_explained_under_rules_by_its_uncompiled_module():
    inputs = INPUTS.float()
    compiled = wrap_module(relu_net(), compile=True)
    for method, options in ((GuidedBackprop, {}), (SmoothGrad, METHODS[SmoothGrad]), (DeepLift, {})):
        plain = run_method(method, relu_net(), inputs, [0, 1], options).maps
        close(run_method(method, compiled, inputs, [0, 1], options).maps, plain, rtol=1e-4, atol=1e-5)
