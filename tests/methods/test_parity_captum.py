"""Under its profile, our numbers are those of captum, to 1e-5 of the largest; the oracle runs on a copy of its own."""

from __future__ import annotations

import copy

import pytest

import whylight
from whylight import ops
from whylight.testing import run_method
from whylight_cam import GradCAM, HiResCAM
from whylight_gradients import InputXGradient, Saliency

attr = pytest.importorskip("captum.attr")

CLASSES = [7, 301]


@pytest.fixture(params=["resnet18", "vgg16"])
def network(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def layer(network):
    return "layer4.1" if hasattr(network, "layer4") else "features.28"


def oracle(network):
    copied = copy.deepcopy(network)
    for module in copied.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return copied


def agree(ours, theirs):
    assert ours.shape == theirs.shape
    assert float(theirs.abs().max()) > 0
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_layer_grad_cam(network, layer, images):
    """Its map is raw and not rectified, and so is ours under its profile."""
    copied = oracle(network)
    theirs = attr.LayerGradCam(copied, copied.get_submodule(layer)).attribute(images[:2], target=CLASSES).detach()
    ours = run_method(GradCAM, network, images[:2], CLASSES, {"layer": layer, "profile": "captum"}).maps
    agree(ours, theirs[:, 0])
    assert (theirs < 0).any()
    assert not whylight.PROFILES["captum"].rectify


def test_layer_grad_cam_at_the_size_of_the_input(network, layer, images):
    copied = oracle(network)
    theirs = attr.LayerGradCam(copied, copied.get_submodule(layer)).attribute(images[:2], target=CLASSES).detach()
    theirs = attr.LayerAttribution.interpolate(theirs, (96, 128))
    ours = run_method(GradCAM, network, images[:2], CLASSES, {"layer": layer, "profile": "captum"}).maps
    scale = ops.Scale(normalise="none", interpolation=whylight.PROFILES["captum"].interpolation)
    agree(ops.cam_render(ours, (96, 128), scale).values, theirs[:, 0])


def test_gradient_times_activation_is_hires_cam(network, layer, images):
    copied = oracle(network)
    explainer = attr.LayerGradientXActivation(copied, copied.get_submodule(layer))
    theirs = explainer.attribute(images[:2], target=CLASSES).detach().sum(1)
    agree(run_method(HiResCAM, network, images[:2], CLASSES, {"layer": layer, "profile": "captum"}).maps, theirs)


@pytest.mark.parametrize("reduce", ["max", "signed"])
def test_saliency(network, reduce, images):
    """Captum keeps the colour channels apart: our map is their largest, or without `abs` their sum."""
    given = attr.Saliency(oracle(network)).attribute(images[:2].clone(), target=CLASSES, abs=reduce == "max").detach()
    ours = run_method(Saliency, network, images[:2], CLASSES, {"reduce": reduce, "profile": "captum"}).maps
    agree(ours, given.amax(1) if reduce == "max" else given.sum(1))


def test_input_times_gradient(network, images):
    theirs = attr.InputXGradient(oracle(network)).attribute(images[:2].clone(), target=CLASSES).detach().sum(1)
    agree(run_method(InputXGradient, network, images[:2], CLASSES, {"profile": "captum"}).maps, theirs)
