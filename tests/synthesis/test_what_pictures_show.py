"""What the methods promise, on the demo model and real photos, small: each claim of the methods' pages as a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

from whylight.models import ModelConfig, open_model
from whylight.testing import run_synthesis
from whylight_synthesis.activation_maximization import ActivationMaximization
from whylight_synthesis.caricature import Caricature
from whylight_synthesis.deepdream import DeepDream
from whylight_synthesis.feature_inversion import FeatureInversion
from whylight_synthesis.fooling_image import FoolingImage
from whylight_synthesis.maco import Maco
from whylight_synthesis.style_transfer import StyleTransfer
from whylight_synthesis.texture_synthesis import TextureSynthesis

SIDE = 96
DAISY, LYNX = 985, 287
LAYERS = ["blocks.1.expand", "blocks.3.expand"]


@pytest.fixture(scope="module")
def demo():
    import whylight_demo

    config = ModelConfig(name="demo", source="demo:efficientnet-lite0")
    return open_model(config, {"demo": whylight_demo.DemoSource})


def photo(name, side=SIDE):
    picture = Image.fromarray(getattr(data, name)()).convert("RGB")
    square = min(picture.size)
    left, top = (picture.width - square) // 2, (picture.height - square) // 2
    picture = picture.crop((left, top, left + square, top + square)).resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def made(method, demo, options, *pictures, target=None, side=SIDE):
    given = torch.stack(pictures)[None] if pictures else None
    return run_synthesis(method, demo, [target], options, pictures=given, size=(side, side))


def roughness(images):
    dx, dy = images.diff(dim=3)[..., :-1, :], images.diff(dim=2)[..., :-1]
    return float((dx.square() + dy.square()).mean())


@pytest.mark.parametrize("start", ["noise", "picture", "mean"])
def test_a_class_is_certain_from_each_start(demo, start):
    pictures = [photo("chelsea")] if start == "picture" else []
    options = {"start": start, "steps": 24, "learning_rate": 0.05}
    _, result = made(ActivationMaximization, demo, options, *pictures, target=DAISY)
    assert result.checks["probability"][0] > 0.99


@pytest.fixture(scope="module")
def unregularised(demo):
    return made(ActivationMaximization, demo, ASCENT, target=DAISY)[1].images


ASCENT = {"parametrisation": "pixels", "steps": 16, "learning_rate": 0.05}
REGULARISERS = {
    "l2": ({"kind": "l2", "weight": 1000}, lambda images: float((images - 0.5).square().mean())),
    "l1": ({"kind": "l1", "weight": 500}, lambda images: float(images.mean())),
    "total-variation": ({"kind": "total-variation", "weight": 1000}, roughness),
    "blur": ({"kind": "blur", "sigma": 1.0, "period": 2}, roughness),
    "clip-small-norm": (
        {"kind": "clip-small-norm", "share": 0.3, "period": 4},
        lambda images: float((images != 0.5).any(1).float().mean()),
    ),
    "clip-small-contribution": (
        {"kind": "clip-small-contribution", "share": 0.3, "period": 4},
        lambda images: float((images != 0.5).any(1).float().mean()),
    ),
}


@pytest.mark.parametrize("name", REGULARISERS)
def test_what_is_regularised_is_smaller_for_it(demo, unregularised, name):
    regulariser, quantity = REGULARISERS[name]
    _, result = made(ActivationMaximization, demo, {**ASCENT, "regularisers": [regulariser]}, target=DAISY)
    assert quantity(result.images) < 0.9 * quantity(unregularised)


def test_an_early_layer_knows_the_photo_and_a_late_one_does_not(demo):
    cat = photo("chelsea")
    options = {"steps": 150, "learning_rate": 0.05, "smoothness": 0.002}
    _, early = made(FeatureInversion, demo, {**options, "layer": "stem"}, cat)
    _, late = made(FeatureInversion, demo, {**options, "layer": "head", "steps": 20}, cat)
    assert early.checks["psnr"][0] > 25
    error = (early.images[0] - cat).square().mean()
    torch.testing.assert_close(early.checks["psnr"][0], -10 * error.log10())
    assert late.checks["psnr"][0] < 20


def test_a_texture_has_the_statistics_and_not_the_layout(demo):
    brick = photo("brick")
    options = {"layers": LAYERS, "steps": 200, "parametrisation": "pixels"}
    steps, result = made(TextureSynthesis, demo, options, brick)
    assert steps[0].losses["gram"][0] == pytest.approx(1, rel=1e-4)
    assert result.checks["gram_loss"][0] < 0.01
    smooth = [F.avg_pool2d(images.mean(0, keepdim=True), 4).flatten() for images in (result.images[0], brick)]
    assert abs(torch.corrcoef(torch.stack(smooth))[0, 1]) < 0.3


def test_style_comes_nearer_and_content_stays(demo):
    cat, coffee = photo("chelsea"), photo("coffee")
    options = {"style_layers": LAYERS, "content_layer": "blocks.5", "steps": 60}
    steps, result = made(StyleTransfer, demo, options, cat, coffee)
    assert result.checks["gram_loss"][0] < 0.3 * steps[0].losses["gram"][0]
    assert result.checks["features_loss"][0] < 0.8
    assert (result.images[0] - cat).square().mean() < (result.images[0] - coffee).square().mean()


def test_noise_fools_the_model(demo):
    _, result = made(FoolingImage, demo, {"confidence": 0.995}, target=500)
    assert result.checks["probability"][0] > 0.99
    assert (result.images - 0.5).abs().mean() < 0.1, "it is still the noise that it was"


def test_a_change_that_nobody_sees_flips_a_photo(demo):
    cat = photo("chelsea", 128)
    options = {"start": "picture", "budget": 1.9 / 255, "confidence": 0.9, "steps": 60}
    before = demo.subject().forward(demo.transform.from_unit(cat[None])).argmax(1)
    _, result = made(FoolingImage, demo, options, cat, target=LYNX, side=128)
    assert before[0] != LYNX
    assert result.checks["probability"][0] > 0.5
    assert result.checks["largest_change"][0] < 2 / 255
    assert demo.subject().forward(demo.transform.from_unit(result.images)).argmax(1)[0] == LYNX


def test_a_change_of_small_length_flips_a_photo_too(demo):
    cat = photo("chelsea", 128)
    options = {"start": "picture", "norm": "l2", "budget": 0.5 / 255, "confidence": 0.9, "steps": 60}
    _, result = made(FoolingImage, demo, options, cat, target=LYNX, side=128)
    assert result.checks["root_mean_square_change"][0] <= 0.5 / 255 * (1 + 1e-4)
    assert demo.subject().forward(demo.transform.from_unit(result.images)).argmax(1)[0] == LYNX


@pytest.mark.parametrize("channel", [None, 3])
def test_a_dream_excites_the_layer_within_the_range_of_images(demo, channel):
    options = {"layer": "blocks.8", "octaves": 2, "steps": 6, "channel": channel}
    _, result = made(DeepDream, demo, options, photo("chelsea"))
    assert result.checks["excitation"][0] > 1.3 * result.checks["excitation_before"][0]
    assert result.images.min() >= 0
    assert result.images.max() <= 1


def test_a_caricature_points_where_the_picture_does(demo):
    cat, coffee = photo("chelsea"), photo("coffee")
    _, result = made(Caricature, demo, {"layer": "blocks.10", "steps": 30}, cat)

    def features(images):
        inputs = demo.transform.from_unit(images)
        return demo.subject().observe(inputs, ["blocks.10"], output=False).layers["blocks.10"].flatten(1)

    found = F.cosine_similarity(features(result.images), features(torch.stack([cat, coffee])))
    assert found[0] > 0.5
    assert found[0] > found[1] + 0.2


def test_maco_moves_phases_only(demo):
    coffee = photo("coffee")
    steps, result = made(Maco, demo, {"steps": 24}, coffee, target=DAISY)
    assert result.checks["score_loss"][0] < steps[0].losses["score"][0] - 5
    spectra = [
        torch.fft.rfft2(torch.logit(images.clamp(0.002, 0.998)).sum(0), norm="ortho").abs()[1:-1, 1:-1].flatten().log()
        for images in (result.images[0], coffee)
    ]
    assert torch.corrcoef(torch.stack(spectra))[0, 1] > 0.9
