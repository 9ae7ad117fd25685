"""Under its profile, our numbers are those of captum, to 1e-5 of the largest; the oracle runs on a copy of its own."""

from __future__ import annotations

import pytest

import whylight
from whylight import ops
from whylight.testing import run_method
from whylight_cam import GradCAM, HiResCAM
from whylight_gradients import InputXGradient, Saliency

attr = pytest.importorskip("captum.attr")

CLASSES = [7, 301]


@pytest.fixture(params=["resnet18", "vgg16"])
def compared(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def layer(compared):
    return "layer4.1" if hasattr(compared.oracle, "layer4") else "features.28"


def agree(ours, theirs):
    assert ours.shape == theirs.shape
    assert float(theirs.abs().max()) > 0
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_layer_grad_cam(compared, layer, images):
    """Its map is raw and not rectified, and so is ours under its profile."""
    copied = compared.oracle
    theirs = attr.LayerGradCam(copied, copied.get_submodule(layer)).attribute(images[:2], target=CLASSES).detach()
    ours = run_method(GradCAM, compared.model, images[:2], CLASSES, {"layer": layer, "profile": "captum"}).maps
    agree(ours, theirs[:, 0])
    assert (theirs < 0).any()
    assert not whylight.PROFILES["captum"].rectify


def test_layer_grad_cam_at_the_size_of_the_input(compared, layer, images):
    copied = compared.oracle
    theirs = attr.LayerGradCam(copied, copied.get_submodule(layer)).attribute(images[:2], target=CLASSES).detach()
    theirs = attr.LayerAttribution.interpolate(theirs, (96, 128))
    ours = run_method(GradCAM, compared.model, images[:2], CLASSES, {"layer": layer, "profile": "captum"}).maps
    scale = ops.Scale(normalise="none", interpolation=whylight.PROFILES["captum"].interpolation)
    agree(ops.cam_render(ours, (96, 128), scale).values, theirs[:, 0])


def test_gradient_times_activation_is_hires_cam(compared, layer, images):
    copied = compared.oracle
    explainer = attr.LayerGradientXActivation(copied, copied.get_submodule(layer))
    theirs = explainer.attribute(images[:2], target=CLASSES).detach().sum(1)
    agree(run_method(HiResCAM, compared.model, images[:2], CLASSES, {"layer": layer, "profile": "captum"}).maps, theirs)


@pytest.mark.parametrize("reduce", ["max", "signed"])
def test_saliency(compared, reduce, images):
    """Captum keeps the colour channels apart: our map is their largest, or without `abs` their sum."""
    given = (
        attr.Saliency(compared.oracle)
        .attribute(images[:2].clone().requires_grad_(), target=CLASSES, abs=reduce == "max")
        .detach()
    )
    ours = run_method(Saliency, compared.model, images[:2], CLASSES, {"reduce": reduce, "profile": "captum"}).maps
    agree(ours, given.amax(1) if reduce == "max" else given.sum(1))


def test_input_times_gradient(compared, images):
    theirs = (
        attr.InputXGradient(compared.oracle)
        .attribute(images[:2].clone().requires_grad_(), target=CLASSES)
        .detach()
        .sum(1)
    )
    agree(run_method(InputXGradient, compared.model, images[:2], CLASSES, {"profile": "captum"}).maps, theirs)
