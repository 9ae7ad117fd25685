"""Pictures are prepared as torchvision and timm prepare them, and the view that is left is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from skimage import data

from whylight.models import Transform

SIZES = [(640, 427), (427, 640), (224, 224), (300, 301), (100, 60), (33, 500), (256, 256)]


def picture(size, mode="RGB", seed=0):
    source = np.random.default_rng(seed)
    small = source.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def prepared(transform, image):
    fitted = transform.fit(image)
    return transform.normalise(torch.from_numpy(fitted.pixels)[None])[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_b0", "inception_v3", "shufflenet_v2_x0_5"])
def test_torchvision_presets(name, size, sources):
    weights = torchvision.models.get_model_weights(name).DEFAULT
    transform = sources["torchvision"]().open(f"{name}@{weights.name}", pretrained=False).transform
    image = picture(size)
    torch.testing.assert_close(prepared(transform, image), weights.transforms()(image), rtol=0, atol=1e-6)


def test_the_torchvision_source_reads_the_preset(sources):
    for name, weights in (("resnet50", "DEFAULT"), ("resnet50@IMAGENET1K_V1", "IMAGENET1K_V1")):
        opened = sources["torchvision"]().open(name, pretrained=False)
        preset = torchvision.models.ResNet50_Weights[weights].transforms()
        image = Image.fromarray(data.chelsea())
        torch.testing.assert_close(prepared(opened.transform, image), preset(image), rtol=0, atol=1e-6)
        assert opened.transform.resize == (232 if weights == "DEFAULT" else 256)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["resnet50", "tf_efficientnet_lite0", "vit_small_patch14_dinov2"])
def test_timm_presets(name, size):
    timm = pytest.importorskip("timm")
    from timm.data import create_transform, resolve_model_data_config

    from whylight_timm import transform_of

    with torch.device("meta"):
        config = resolve_model_data_config(timm.create_model(name))
    image = picture(size)
    expected = create_transform(**config, is_training=False)(image)
    torch.testing.assert_close(prepared(transform_of(config), image), expected, rtol=0, atol=1e-6)


def test_other_modes_and_channels():
    grey = Transform(resize=8, crop=(8, 8), mean=(0.5,), std=(0.5,))
    fitted = grey.fit(picture((20, 30), "RGBA"))
    assert fitted.pixels.shape == (8, 8, 1)
    assert grey.normalise(torch.from_numpy(fitted.pixels)[None]).shape == (1, 1, 8, 8)
    colour = Transform(resize=8, crop=(8, 8))
    assert colour.fit(picture((20, 30), "L")).pixels.shape == (8, 8, 3)


def test_channel_order_and_scale():
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 1, 1, 3)
    transform = Transform(None, None, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0), scale=1.0, channel_order="bgr")
    values = transform.normalise(pixels, dtype=torch.float64)
    assert values.flatten().tolist() == [14.5, 9.0, 3.5]
    assert pixels.flatten().tolist() == [10, 20, 30]


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (1000, 80)])
def test_the_box_is_the_view_in_the_original_picture(size):
    """A picture whose pixels are its own coordinates tells what part of it is left."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    transform = Transform(resize=64, crop=(48, 48))
    box = transform.fit(Image.new("RGB", size)).box
    for ramp, (low, high) in ((x / width, (box[0], box[2])), (y / height, (box[1], box[3]))):
        seen = transform.fit(Image.fromarray((255 * ramp).astype(np.uint8)).convert("RGB")).pixels[..., 0]
        length = width if ramp is not None and low == box[0] and high == box[2] else height
        centre = (low + high) / 2 / length
        assert seen.mean() / 255 == pytest.approx(centre, abs=0.01)
        assert (high - low) / 48 == pytest.approx(min(size) / 64, rel=0.02)


def test_small_pictures_are_padded_and_the_box_says_so():
    transform = Transform(resize=None, crop=(10, 12))
    fitted = transform.fit(Image.new("RGB", (6, 7), (255, 0, 0)))
    assert fitted.pixels.shape == (10, 12, 3)
    assert fitted.box == (-3, -1, 9, 9)
    assert (fitted.pixels[..., 0] == 255).sum() == 42


def test_exact_and_missing_resize():
    assert Transform(resize=(10, 20), crop=None).fit(picture((7, 9))).pixels.shape == (10, 20, 3)
    assert Transform(resize=None, crop=None).fit(picture((7, 9))).pixels.shape == (9, 7, 3)
    assert Transform(resize=None, crop=None).size is None
    assert Transform(resize=256, crop=(224, 224)).resized((112, 112)).resize == 128
    assert Transform(resize=256, crop=(224, 224)).resized((100, 200)).size == (100, 200)
    assert Transform.plain((32, 48)).fit(picture((7, 9))).pixels.shape == (32, 48, 3)
