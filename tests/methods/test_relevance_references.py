"""Every rule against what iNNvestigate 2.1.2 stored of it, layer by layer; `references` has its licence.

Its conventions: the relevance that is shared out is the value of the output's largest neuron, outputs are flattened in
the order height, width, channel; ε is 1e-7; its z⁺, flat, w² and box rules leave the bias out. Numbers are float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from whylight.models import wrap_module
from whylight.target import Rank
from whylight.testing.running import batch_of
from whylight_relevance import rules
from whylight_relevance.composites import Composite, deep_taylor
from whylight_relevance.propagation import Propagation

STORED = np.load(Path(__file__).parent / "references" / "innvestigate_layers.npz")
RULES = {
    "LRPZ": rules.Epsilon(0.0),
    "LRPEpsilon": rules.Epsilon(1e-7),
    "LRPZPlus": rules.ZPlus(bias=False),
    "LRPAlpha1Beta0": rules.ZPlus(),
    "LRPAlpha1Beta0IgnoreBias": rules.AlphaBeta(1.0, 0.0, bias=False),
    "LRPAlpha2Beta1": rules.AlphaBeta(2.0, 1.0),
    "LRPAlpha2Beta1IgnoreBias": rules.AlphaBeta(2.0, 1.0, bias=False),
    "LRPFlat": rules.Flat(),
    "LRPWSquare": rules.WSquare(),
    "LRPZ_boxed_input_layer_rule": rules.ZBox(),
    "LRPZ_Flat_input_layer_rule": rules.Flat(),
    "LRPZIgnoreBias": rules.Epsilon(0.0),
    "LRPEpsilonIgnoreBias": rules.Epsilon(1e-7),
}


class Stored(nn.Module):
    """One stored layer, its output flattened as iNNvestigate does."""

    def __init__(self, name, layer):
        super().__init__()
        self.layer = layer
        if f"{name}/{layer}/weight" in STORED:
            weight = torch.from_numpy(STORED[f"{name}/{layer}/weight"]).double()
            self.weight = nn.Parameter(weight.permute(3, 2, 0, 1) if weight.dim() == 4 else weight.T)
            self.bias = nn.Parameter(torch.from_numpy(STORED[f"{name}/{layer}/bias"]).double())

    def forward(self, inputs):
        if self.layer == "Dense":
            return F.linear(inputs.permute(0, 2, 3, 1), self.weight, self.bias).flatten(1)
        if self.layer == "AveragePooling2D":
            output = F.avg_pool2d(inputs, 2)
        elif self.layer == "MaxPooling2D":
            output = F.max_pool2d(inputs, 2)
        else:
            output = F.conv2d(inputs, self.weight, self.bias)
            output = output.relu() if self.layer == "Conv2D_relu" else output
        return output.permute(0, 2, 3, 1).flatten(1)


def check(name, layer, composite, bounds=None):
    inputs = torch.from_numpy(STORED[f"{name}/input"]).double().permute(0, 3, 1, 2)
    module = Stored(name, layer)
    model = wrap_module(module.double(), input_size=(10, 10))
    rule = Propagation(composite, bounds and ((bounds[0],) * 3, (bounds[1],) * 3))
    given = model.subject().input_gradients(batch_of(inputs, [Rank(0)] * len(inputs)), rule=rule)
    expected = torch.from_numpy(STORED[f"{name}/{layer}/attribution"]).double().permute(0, 3, 1, 2)
    error = float((given - expected).abs().max() / expected.abs().max())
    assert error <= 1e-5


@pytest.mark.parametrize("layer", ["Dense", "Conv2D"])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_what_innvestigate_stored(name, layer):
    bounds = (-10.0, 10.0) if "boxed" in name else None
    check(name, layer, Composite(RULES[name], RULES[name]), bounds)


@pytest.mark.parametrize("layer", ["AveragePooling2D", "MaxPooling2D"])
@pytest.mark.parametrize("name", ["LRPZ", "LRPEpsilon"])
def test_pooling_gives_what_innvestigate_stored(name, layer):
    check(name, layer, Composite(RULES[name], RULES[name]))


@pytest.mark.parametrize("layer", ["Dense", "Conv2D"])
def test_deep_taylor_of_pixels_gives_what_innvestigate_stored(layer):
    check("BoundedDeepTaylor", layer, deep_taylor(bounded=True), (-128.0, 128.0))


@pytest.mark.parametrize("layer", ["Dense", "Conv2D", "Conv2D_relu"])
def test_deep_taylor_inside_a_network_gives_what_innvestigate_stored(layer):
    """Its layers are inner ones, whatever they take: it appends a ReLU to every model, and has no other first rule."""
    inner = deep_taylor(bounded=False).convolution
    check("DeepTaylor", layer, Composite(inner, inner))
