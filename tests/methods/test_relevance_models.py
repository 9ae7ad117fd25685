"""Relevance through what networks are made of besides convolutions, and what is refused.

The oracle is input times gradient of the same network in which whatever gets no relevance is a constant: gates, the
deviation of a normalisation, the slope of an activation; and of products of signals each factor in turn. For LRP-0
that is the same thing by another way (AttnLRP, Achtibat et al. 2024, shows it for attention).
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whylight
from whylight.models import wrap_module
from whylight.testing import conv_gap_net, functional_relu_net, relu_net, run_method
from whylight_relevance import LRP, DeepTaylor

INPUTS = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def close(given, expected, tolerance=1e-9):
    error = float((given - expected).abs().max() / expected.abs().max())
    assert error <= tolerance, error


def sloped(function, values):
    return values * (function(values) / values).detach()


class Parts(nn.Module):
    """A block of convolution, squeeze-and-excitation and attention. With `constant`, as the oracle has it."""

    def __init__(self, constant, attention="module"):
        super().__init__()
        torch.manual_seed(0)
        self.constant, self.kind = constant, attention
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.normal_(0, 0.2)
        self.norm.running_var.uniform_(0.5, 1.5)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.first_norm, self.second_norm = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scale = nn.Parameter(torch.rand(8))
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def act(self, function, values):
        return sloped(function, values) if self.constant else function(values)

    def standardised(self, norm, values):
        if not self.constant:
            return norm(values)
        deviation = (values.var(-1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
        return (values - values.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias

    def product(self, one, other):
        return (one @ other.detach() + one.detach() @ other) / 2 if self.constant else one @ other

    def attend(self, tokens):
        if not self.constant and self.kind == "module":
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]
        if not self.constant and self.kind == "weights":
            return self.attention(tokens, tokens, tokens, need_weights=True)[0]
        query, key, value = (
            part.unflatten(-1, (2, 4)).transpose(1, 2)
            for part in F.linear(tokens, self.attention.in_proj_weight, self.attention.in_proj_bias).chunk(3, -1)
        )
        weights = (self.product(query, key.transpose(-2, -1)) * (1 / math.sqrt(4))).softmax(-1)
        return self.attention.out_proj(self.product(weights, value).transpose(1, 2).flatten(2))

    def forward(self, inputs):
        maps = self.act(F.hardswish, self.norm(self.stem(inputs)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(maps, 1)))))
        maps = maps * (gate.detach() if self.constant else gate)
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = tokens + self.attend(self.standardised(self.first_norm, tokens))
        hidden = self.act(F.gelu, self.up(self.standardised(self.second_norm, tokens)))
        tokens = tokens + self.scale * self.down(hidden)
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("attention", ["module", "weights", "functions"])
def test_gates_layer_norms_activations_and_attention(attention):
    targets = [(0, 3), 2]
    given = run_method(LRP, Parts(False, attention).double(), INPUTS, targets, {"composite": "zero"}).maps
    oracle = Parts(True).double().eval()
    leaf = INPUTS.clone().requires_grad_()
    scores, expected = oracle(leaf), []
    for row, index in ((0, 0), (0, 3), (1, 2)):
        gradient = torch.autograd.grad(scores[row, index], leaf, retain_graph=True)[0]
        expected.append((leaf.detach() * gradient).sum(1)[row])
    close(given, torch.stack(expected))


class Toy(nn.Module):
    """A network of captum's tests/attr/test_lrp.py, on an input [1, 1, 1, n]."""

    def __init__(self, first, second, *, skip=False):
        super().__init__()
        self.first = nn.Linear(*first.shape[::-1], bias=False)
        self.first.weight.data = first
        self.second = None if second is None else nn.Linear(*second.shape[::-1], bias=False)
        if second is not None:
            self.second.weight.data = second
        self.skip = skip

    def forward(self, inputs):
        values = inputs.flatten(1)
        hidden = self.first(values)
        return hidden + values if self.skip else self.second(hidden.relu())


@pytest.mark.parametrize(
    ("network", "values", "target", "options", "expected"),
    [
        ((torch.full((3, 3), 2.0), torch.full((1, 3), 3.0)), [1, 2, 3], 0, {"composite": "epsilon"}, [18, 36, 54]),
        (
            (torch.tensor([[-2.0, 2, 2], [2, 2, 2], [2, 2, 2]]), torch.full((1, 3), 3.0)),
            [1, 2, 3],
            0,
            {"rules": {"first": "z-plus", "second": "z-plus"}},
            [12, 33.6, 50.4],
        ),
        ((torch.full((2, 2), 5.0), None), [2, 3], 1, {"composite": "zero"}, [10, 18]),
    ],
)
def test_captums_examples(network, values, target, options, expected):
    size = (1, len(values))
    toy = Toy(*network, skip=network[1] is None)
    model = wrap_module(toy.double(), transform=whylight.Transform.plain(size, 1))
    inputs = torch.tensor(values, dtype=torch.float64).view(1, 1, *size)
    given = run_method(LRP, model, inputs, [target], options)
    close(given.maps[0, 0], torch.tensor(expected, dtype=torch.float64), 1e-6)
    assert float(given.checks["conservation_ratio"]) == pytest.approx(1, abs=1e-6)


class Refused(nn.Module):
    """A network with one function that no rule covers."""

    def __init__(self, function):
        super().__init__()
        self.features = conv_gap_net().features
        self.function = function

    def forward(self, inputs):
        return self.function(self.features(inputs)).mean((2, 3))


@pytest.mark.parametrize("method", [LRP, DeepTaylor])
@pytest.mark.parametrize(
    ("function", "name"),
    [(torch.exp, "exp"), (lambda x: x.pow(2), "pow"), (torch.cos_, "cos_"), (lambda x: 1 / (1 + x), "__rdiv__")],
)
def test_a_function_that_no_rule_covers_is_refused_by_name(method, function, name):
    with pytest.raises(whylight.Unsupported) as caught:
        run_method(method, Refused(function).double(), INPUTS, [0, 1])
    assert repr(name) in caught.value.message
    assert caught.value.violations[0].field == "model"


def test_a_refusal_names_the_layer():
    class Exponential(nn.Module):
        def forward(self, inputs):
            return inputs.exp()

    with pytest.raises(whylight.Unsupported, match="layer 'function' calls 'exp'"):
        run_method(LRP, Refused(Exponential()), INPUTS.float(), [0, 1])


def test_an_unknown_layer_in_the_rules_is_not_found():
    with pytest.raises(whylight.NotFound, match=r"features\.9"):
        run_method(LRP, relu_net(), INPUTS.float(), [0, 1], {"rules": {"features.9": "flat"}})


def test_alpha_and_beta_must_differ_by_one():
    with pytest.raises(whylight.InvalidInput, match="alpha − beta must be 1"):
        run_method(LRP, relu_net(), INPUTS.float(), [0, 1], {"alpha": 2.0, "beta": 0.5})


class Prepared(nn.Module):
    """A network that changes its input before the first convolution; `in_place` and padded, or not at all."""

    def __init__(self, prepare):
        super().__init__()
        self.network, self.prepare = relu_net(), prepare

    def forward(self, inputs):
        return self.network(self.prepare(inputs))


def doubled_in_place(inputs):
    inputs = inputs.clone()
    inputs *= 2.0
    inputs += 1.0
    return inputs


def by_channel(inputs):
    return torch.cat([inputs[:, channel].unsqueeze(1) * 2 + 1 for channel in range(3)], 1)


@pytest.mark.parametrize("prepare", [doubled_in_place, by_channel])
def test_the_box_follows_what_a_model_does_to_its_input(prepare):
    """Shifting and scaling inside the model, or in its transform, is the same box and the same relevance."""
    outside = whylight.Transform(None, (16, 24), mean=(-0.5,) * 3, std=(0.5,) * 3)
    inside = whylight.Transform.plain((16, 24))
    images = INPUTS.abs().clamp(max=1)
    expected = run_method(DeepTaylor, wrap_module(relu_net().double(), transform=outside), images * 2 + 1, [0, 1]).maps
    given = run_method(DeepTaylor, wrap_module(Prepared(prepare).double(), transform=inside), images, [0, 1]).maps
    close(given, expected)


def test_the_box_of_padding_is_zero():
    """Zeros around the input are neither black nor white: they take nothing, as those of a padded convolution."""
    padded = Prepared(lambda inputs: F.pad(inputs, (1, 1, 1, 1)))
    padded.network.features[0].padding = (0, 0)
    plain, around = (wrap_module(net.double(), input_size=(16, 24)) for net in (relu_net(), padded))
    close(run_method(DeepTaylor, around, INPUTS, [0, 1]).maps, run_method(DeepTaylor, plain, INPUTS, [0, 1]).maps)


@pytest.mark.parametrize("served", [{"channels_last": True}, {"precision": "bfloat16"}])
def test_the_box_is_there_in_the_layout_and_type_that_the_server_gives_its_input(served):
    images = INPUTS.float()
    expected = run_method(DeepTaylor, wrap_module(relu_net()), images, [0, 1]).maps
    given = run_method(DeepTaylor, wrap_module(relu_net(), **served), images, [0, 1]).maps
    close(given, expected, 1e-5 if "channels_last" in served else 0.1)


def test_a_box_of_something_else_than_the_input_is_refused():
    with pytest.raises(whylight.Unsupported, match="needs bounds"):
        run_method(DeepTaylor, Prepared(torch.tanh).double(), INPUTS, [0, 1])


@pytest.mark.parametrize("network", [relu_net, functional_relu_net, conv_gap_net])
def test_a_narrow_model_is_explained_in_float32(network):
    inputs = INPUTS.float()
    narrow = wrap_module(network(), precision="bfloat16")
    given = run_method(LRP, narrow, inputs, [0, 1]).maps
    assert given.dtype == torch.float32
    close(given, run_method(LRP, network(), inputs, [0, 1]).maps, 0.02)


def test_relevance_of_a_neuron_and_of_a_region_sums_to_their_value():
    model = wrap_module(relu_net(bias=False).double())
    targets = [whylight.Neuron("features.4", 2), whylight.OutputIndex((3,))]
    ratio = run_method(LRP, model, INPUTS, targets, {"composite": "zero"}).checks["conservation_ratio"]
    torch.testing.assert_close(ratio, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-9)


# torch.compile itself looks at .grad of a tensor that is not a leaf, when the scores are asked for.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_model_runs_uncompiled_and_gives_the_same():
    compiled = wrap_module(relu_net(), compile=True)
    given = run_method(LRP, compiled, INPUTS.float(), [0, 1]).maps
    assert torch.equal(given, run_method(LRP, relu_net(), INPUTS.float(), [0, 1]).maps)
