"""Occlusion, RISE, LIME and kernel SHAP pass the suite for methods, and refuse what they cannot do."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import whylight
from whylight.errors import InvalidInput, Unsupported
from whylight.models import wrap_module
from whylight.options import parse_options
from whylight.testing import MethodTests, conv_gap_net, functional_relu_net, relu_net, run_method
from whylight_perturbation import LIME, RISE, KernelSHAP, Occlusion


class TestOcclusion(MethodTests):
    method = Occlusion
    options = {"window": 16, "stride": 8}


class TestOcclusionByABlurredWindowThatIsNotSquare(MethodTests):
    method = Occlusion
    options = {"window": [12, 20], "stride": [12, 10], "fill": "blur"}

    def network(self):
        return relu_net()


class TestRISE(MethodTests):
    method = RISE
    options = {"masks": 70, "grid": 4}

    def network(self):
        return functional_relu_net()


class TestLIME(MethodTests):
    method = LIME
    options = {"samples": 70, "segments": 9, "segmentation": "grid"}


class TestLIMEOverSuperpixels(MethodTests):
    method = LIME
    options = {"samples": 40, "segments": 12, "surrogate": "lasso", "regularisation": 1e-5, "fill": "black"}

    def network(self):
        pytest.importorskip("skimage")
        return relu_net()


class TestKernelSHAP(MethodTests):
    method = KernelSHAP
    options = {"samples": 70, "segments": 12, "segmentation": "grid"}


class TestKernelSHAPOverSuperpixels(MethodTests):
    method = KernelSHAP
    options = {"samples": 40, "segments": 20, "segmentation": "felzenszwalb", "fill": "grey"}

    def network(self):
        pytest.importorskip("skimage")
        return relu_net()


def inputs(height=32, width=48):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(5))


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(InvalidInput, match="stride"):
        parse_options(Occlusion.Options, {"window": [8, 16], "stride": 9})
    assert parse_options(Occlusion.Options, {"window": [8.0, 16.0], "stride": 8.0}).window == (8, 16)


def test_a_window_larger_than_the_input_covers_it_once():
    net = conv_gap_net()
    found = run_method(Occlusion, net, inputs(), [1], {"window": 64, "stride": 64, "fill": "zero"}).maps
    lost = net(inputs())[0, 1] - net(torch.zeros(1, 3, 32, 48))[0, 1]
    torch.testing.assert_close(found, lost.detach().expand(1, 32, 48))


@pytest.mark.parametrize("method", [LIME, KernelSHAP])
def test_without_scikit_image_only_rectangles_are_to_be_had(method, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"whylight\[perturbation\]") as caught:
        run_method(method, conv_gap_net(), inputs(), [0], {"samples": 8})
    assert caught.value.violations[0].field == "options.segmentation"
    run_method(method, conv_gap_net(), inputs(), [0], {"samples": 8, "segmentation": "grid", "segments": 4})


@pytest.mark.parametrize("segmentation", ["slic", "felzenszwalb", "quickshift"])
def test_superpixels_follow_the_picture_that_the_model_saw(segmentation):
    """Two halves of one colour each, normalised: no superpixel reaches over the edge between them."""
    pytest.importorskip("skimage")
    transform = whylight.Transform(None, (48, 64))
    pixels = torch.zeros(1, 48, 64, 3, dtype=torch.uint8)
    pixels[:, :, 23:, 0] = 200
    model = wrap_module(conv_gap_net(), transform=transform)
    options = {"samples": 200, "segments": 8, "segmentation": segmentation, "fill": "grey"}
    found = run_method(KernelSHAP, model, transform.normalise(pixels), [0], options).maps[0]
    assert not set(found[:, :23].unique().tolist()) & set(found[:, 23:].unique().tolist())


def test_one_superpixel_has_all_the_credit():
    net = conv_gap_net().double()
    image = inputs().double()
    options = {"segments": 1, "segmentation": "grid", "fill": "zero"}
    found = run_method(KernelSHAP, net, image, [2], options)
    gain = net(image)[0, 2] - net(torch.zeros_like(image))[0, 2]
    torch.testing.assert_close(found.maps, gain.detach().expand(1, 32, 48))


@pytest.mark.parametrize(
    ("fill", "expected"),
    [("zero", (0.0, 0.0, 0.0)), ("black", (-0.5, -1.0, -1.5)), ("grey", (0.5, 0.25, 0.125)), ("mean", None)],
)
def test_fills_are_in_the_units_of_the_model(fill, expected):
    """A window over everything shows the model one colour, in its own normalised units."""
    net = conv_gap_net().double()
    transform = whylight.Transform(None, (32, 48), mean=(0.25, 0.4, 0.4615384615384615), std=(0.5, 0.4, 0.3076923))
    image = inputs().double()
    found = run_method(Occlusion, wrap_module(net, transform=transform), image, [0], {"window": 64, "fill": fill}).maps
    colour = image.mean((2, 3)) if expected is None else torch.tensor([expected], dtype=torch.float64)
    lost = net(image)[0, 0] - net(colour[:, :, None, None].expand(1, 3, 32, 48))[0, 0]
    torch.testing.assert_close(found, lost.detach().expand(1, 32, 48), rtol=1e-6, atol=1e-9)


def test_costs_are_the_runs():
    assert Occlusion().cost(Occlusion.Options()) == 13 * 13 + 1
    assert RISE().cost(RISE.Options()) == 4000
    assert LIME().cost(LIME.Options()) == KernelSHAP().cost(KernelSHAP.Options()) == 1000
