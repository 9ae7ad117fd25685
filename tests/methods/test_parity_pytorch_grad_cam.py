"""Under its profile, our maps are those of pytorch-grad-cam, to 1e-5, at the size of the input.

The oracle runs on a deep copy of its own, with ReLUs out of place: it hooks modules, and an in-place ReLU behind the
hooked layer would change the activations that it keeps (its issues #147, #148).
"""

from __future__ import annotations

import copy

import pytest
import torch

import whylight
from whylight import ops
from whylight.models import wrap_module
from whylight.testing import run_method
from whylight_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM

pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402 - after the check that it is there

PAIRS = {
    GradCAM: pytorch_grad_cam.GradCAM,
    GradCAMPlusPlus: pytorch_grad_cam.GradCAMPlusPlus,
    XGradCAM: pytorch_grad_cam.XGradCAM,
    LayerCAM: pytorch_grad_cam.LayerCAM,
    HiResCAM: pytorch_grad_cam.HiResCAM,
}
PROFILE = whylight.PROFILES["pytorch-grad-cam"]
SCALE = ops.Scale(
    rectify=PROFILE.rectify,
    normalise=PROFILE.normalise,
    eps=PROFILE.normalise_eps,
    interpolation=PROFILE.interpolation,
)
TOLERANCE = 1e-5


def oracle(method, network, layer, inputs, classes):
    network = copy.deepcopy(network)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    network.requires_grad_(True)  # it cannot explain a frozen network (its issue #254)
    with PAIRS[method](model=network, target_layers=[network.get_submodule(layer)]) as cam:
        return torch.from_numpy(cam(inputs, [ClassifierOutputTarget(index) for index in classes]))


def telling_classes(model, layer, inputs, method):
    """For each input, a class of its own whose map is not zero: parity of black pictures would say nothing."""
    classes = []
    for row in range(len(inputs)):
        candidates = [index for index in range(40) if index not in classes]
        maps = run_method(method, model, inputs[row : row + 1], [candidates], {"layer": layer}).maps
        positive = (maps.clamp(min=0) > 0).float().mean((1, 2)) > 0.05
        classes.append(candidates[int(positive.float().argmax())])
        assert positive.any()
    return classes


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize(
    ("fixture", "layer"),
    [("resnet18", "layer4.1"), ("resnet18", "layer3.0.conv2"), ("vgg16", "features.29"), ("vgg16", "features.24")],
)
def test_a_network_of_torchvision(method, fixture, layer, images, request):
    network = request.getfixturevalue(fixture)
    inputs = images[:2]
    model = wrap_module(network)
    classes = telling_classes(model, layer, inputs, method)
    assert len(set(classes)) == len(inputs)

    maps = run_method(method, model, inputs, classes, {"layer": layer, "profile": "pytorch-grad-cam"}).maps
    ours = ops.cam_render(maps, (96, 128), SCALE).values

    theirs = oracle(method, network, layer, inputs, classes)
    assert ours.shape == theirs.shape == (2, 96, 128)
    assert float(theirs.amax((1, 2)).min()) > 0.9
    assert float((ours - theirs).abs().max()) <= TOLERANCE
