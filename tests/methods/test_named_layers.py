"""The layers that tutorials name work by name, with every class activation map that takes a layer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).parent))

from every_method import every_method

from whylight.models import wrap_module
from whylight.models.weights import random_weights
from whylight.testing import run_method

SIZE = (64, 96)
METHODS = ["grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam", "eigen-cam", "finer-cam", "guided-grad-cam"]
METHODS += ["score-cam", "ablation-cam", "shapley-cam"]
FEW = {"score-cam": {"top_k": 8}, "ablation-cam": {"top_k": 8}}
"""Channels that are tried, of up to 512: enough to see that the layer is the one that was named."""
LAYERS = {
    "alexnet": ("features.11", (3, 5)),
    "vgg16": ("features.30", (2, 3)),
    "vgg19": ("features.35", (4, 6)),
    "resnet18": ("layer4", (2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_by_name(name):
    """Grad-CAM by its definition; the others give maps of the layer's size, or of the input's, that differ by class."""
    layer, size = LAYERS[name]
    module = getattr(torchvision.models, name)()
    random_weights(module, 0)
    model = wrap_module(module.eval(), input_size=SIZE)
    inputs = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(4))
    for method in METHODS:
        chosen = every_method()[method]
        maps = run_method(chosen, model, inputs, [(7, 400, 3, 800)], {"layer": layer, **FEW.get(method, {})}).maps
        assert maps.shape == (4, *(SIZE if method == "guided-grad-cam" else size)), method
        assert torch.isfinite(maps).all(), method
        assert method == "eigen-cam" or len(maps.unique(dim=0)) > 1, method
    kept = []
    handle = module.get_submodule(layer).register_forward_hook(lambda layer, given, made: kept.append(made))
    scores = module(inputs)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[0, 7], kept)
    expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1)[0].detach()
    given = run_method(every_method()["grad-cam"], model, inputs, [7], {"layer": layer}).maps[0]
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
