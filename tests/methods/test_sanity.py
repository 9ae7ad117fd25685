"""Maps of the demo model depend on the class and on the weights; guided backpropagation, as is known, hardly does.

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018: what does not change when the network has learned
nothing, explains the picture and not the network.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from every_method import every_method

from whylight.models import wrap_module
from whylight.models.weights import random_weights
from whylight.testing import run_method

CAT, COFFEE = 281, 967
OPTIONS = {
    "integrated-gradients": {"steps": 4},
    "kernel-shap": {"samples": 34, "segments": 16, "segmentation": "grid"},
    "lrp": {"composite": "epsilon"},
    "occlusion": {"window": 64, "stride": 32},
}
ALIKE = 0.75
"""Correlation of the maps of two classes, and of maps with learned and with random weights, at most."""

DISCRIMINATIVE = [
    "cam",
    "deeplift",
    "finer-cam",
    "grad-cam",
    "hires-cam",
    "input-x-gradient",
    "integrated-gradients",
    "kernel-shap",
    "lrp",
    "occlusion",
    "shapley-cam",
    "taylor",
    "xgrad-cam",
]
POSITIVE_ONLY = ["grad-cam++", "layer-cam"]
"""Behind global average pooling these use the positive weights of a class alone, and two classes look much alike."""


@pytest.fixture(scope="module")
def randomised(demo):
    """The demo model with weights that learned nothing."""
    compared, _, _ = demo
    module = copy.deepcopy(compared.oracle)
    random_weights(module, 3)
    return wrap_module(module.eval(), transform=compared.model.transform)


@pytest.fixture(scope="module")
def reinitialised_top(demo):
    """The demo model with its last layer re-initialised, as the cascading test begins."""
    compared, _, _ = demo
    module = copy.deepcopy(compared.oracle)
    linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)][-1]
    noise = torch.randn(linear.weight.shape, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        linear.weight.copy_(noise * linear.weight.std())
    return wrap_module(module.eval(), transform=compared.model.transform)


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten().double(), other.flatten().double()]))[0, 1])


def maps_of(name, model, inputs, targets):
    return run_method(every_method()[name], model, inputs, targets, OPTIONS.get(name, {})).maps


@pytest.mark.parametrize("name", DISCRIMINATIVE)
def test_maps_depend_on_the_class_and_on_the_weights(name, demo, randomised):
    compared, _, inputs = demo
    cat, coffee = maps_of(name, compared.model, inputs[:1], [(CAT, COFFEE)])
    told = {
        "classes": correlation(cat, coffee),
        "weights": correlation(cat, maps_of(name, randomised, inputs[:1], [CAT])[0]),
    }
    print(name, told)
    assert max(told.values()) <= ALIKE


@pytest.mark.parametrize("name", POSITIVE_ONLY)
def test_maps_of_positive_weights_depend_on_the_weights_and_little_on_the_class(name, demo, randomised):
    compared, _, inputs = demo
    cat, coffee = maps_of(name, compared.model, inputs[:1], [(CAT, COFFEE)])
    assert correlation(cat, maps_of(name, randomised, inputs[:1], [CAT])[0]) <= ALIKE
    assert ALIKE < correlation(cat, coffee) < 0.98  # measured: 0.956


def test_guided_backprop_hardly_looks_at_the_class_or_at_the_last_layer(demo, reinitialised_top):
    """The negative control: a test like the one above that nothing could fail would be none."""
    compared, _, inputs = demo
    cat, coffee = maps_of("guided-backprop", compared.model, inputs[:1], [(CAT, COFFEE)])
    changed = maps_of("guided-backprop", reinitialised_top, inputs[:1], [CAT])[0]
    told = correlation(cat, coffee), correlation(cat, changed)
    print(told)
    assert min(told) > ALIKE
    gradient = maps_of("grad-cam", compared.model, inputs[:1], [CAT])[0]
    assert correlation(gradient, maps_of("grad-cam", reinitialised_top, inputs[:1], [CAT])[0]) < min(told)
