"""JPEG files that are decoded together: the same pictures as one by one, within what decoders differ by."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from whylight import decode
from whylight.decode import decode_image, plain_jpeg
from whylight.explainer import jpegs
from whylight.explainer.jpegs import JpegDecoder
from whylight.limits import Limits

pytest.importorskip("torchvision")
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
LEVELS = {"cpu": 2, "cuda": 24}
"""By how many levels a pixel of a smooth picture may differ from Pillow's. On a GPU, colours are spread otherwise."""


@pytest.fixture
def decoder(request) -> JpegDecoder:
    device = getattr(request, "param", "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return JpegDecoder(torch.device(device), Limits())


def smooth(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    """A picture in which no two corners are alike."""
    y, x = np.mgrid[:height, :width]
    channels = (x * 255 / width, y * 255 / height, 255 - (x + y) * 127 / (width + height))
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).convert(mode)


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


def turned_by(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(smooth(), exif=exif)


def without_end(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def not_jfif(data: bytes) -> bytes:
    """Cut the JFIF segment out, and name the components R, G, B: their numbers are colours as they are."""
    assert data[2:4] == b"\xff\xe0"
    data = data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]
    for marker, at, step in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):
        begin = data.index(marker)
        for n, name in enumerate(b"RGB"):
            place = begin + at + n * step
            data = data[:place] + bytes([name]) + data[place + 1 :]
    return data


PLAIN = {
    "colour": jpeg(smooth()),
    "every pixel has its colour": jpeg(smooth(), subsampling=0),
    "progressive": jpeg(smooth(), progressive=True),
    "grey": jpeg(smooth(mode="L")),
    "odd": jpeg(smooth(33, 21)),
    **{f"orientation {turn}": turned_by(turn) for turn in range(1, 9)},
    "with a profile": jpeg(smooth(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
}


@pytest.mark.parametrize("decoder", DEVICES, indirect=True, ids=["cpu", "cuda"])
def test_the_pictures_of_a_batch_are_those_that_pillow_makes(decoder: JpegDecoder) -> None:
    together = decoder.decode(list(PLAIN.values()))
    allowed = LEVELS[decoder._device.type]
    for (name, data), picture in zip(PLAIN.items(), together, strict=True):
        expected = decode_image(data, Limits())
        assert picture is not None, name
        assert (picture.mode, picture.size) == ("RGB", expected.size), name
        assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= allowed, name
    assert (decoder.counts.decoded, decoder.counts.refused) == (len(PLAIN), 0)


@pytest.mark.parametrize("decoder", DEVICES, indirect=True, ids=["cpu", "cuda"])
def test_a_file_has_the_same_pixels_alone_and_in_any_company(decoder: JpegDecoder, monkeypatch) -> None:
    files = list(PLAIN.values())
    together = decoder.decode(files)
    monkeypatch.setattr(jpegs, "TOGETHER_PIXELS", 7000)
    in_portions = decoder.decode(files[::-1])[::-1]
    for data, one, other in zip(files, together, in_portions, strict=True):
        (alone,) = decoder.decode([data])
        assert alone.tobytes() == one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff\xd9",
        jpeg(smooth(mode="CMYK")),
        not_jfif(jpeg(smooth(), subsampling=0)),
        without_end(jpeg(smooth())),
        jpeg(smooth()) + b"and more",
        jpeg(smooth(300, 200)),
    ],
    ids=["nothing", "no picture", "CMYK", "RGB as it is", "cut off", "something behind it", "too large"],
)
def test_what_decoders_may_take_otherwise_is_left_to_pillow(decoder: JpegDecoder, data: bytes) -> None:
    limits = Limits(image_pixels=50_000)
    decoder = JpegDecoder(torch.device("cpu"), limits)
    png = io.BytesIO()
    smooth().save(png, "PNG")
    first, second, third = decoder.decode([PLAIN["odd"], data, png.getvalue()])
    assert (first is None, second, third) == (False, None, None)
    assert plain_jpeg(data, limits) is None
    assert decoder.counts.refused == 0, "the device was not asked"


def test_no_pixel_of_what_breaks_a_limit_is_decoded(decoder: JpegDecoder, monkeypatch) -> None:
    def fail(*args, **options):
        raise AssertionError

    decoder = JpegDecoder(torch.device("cpu"), Limits(image_pixels=64 * 48 - 1))
    monkeypatch.setattr(decoder, "_decode_jpeg", fail)
    monkeypatch.setattr(Image.Image, "load", fail)
    assert decoder.decode([PLAIN["colour"], PLAIN["progressive"]]) == [None, None]
    monkeypatch.setattr(decode, "KEPT_PIXELS", 32)
    assert plain_jpeg(PLAIN["colour"], Limits()) is None


def test_what_the_device_refuses_is_counted_and_said_and_harms_nobody(
    decoder: JpegDecoder, monkeypatch, caplog
) -> None:
    usual = decoder._decode_jpeg
    refused = PLAIN["progressive"]

    def fussy(files, **options):
        if any(bytes(one.numpy()) == refused for one in files):
            raise RuntimeError("nvjpegDecode failed: 2")
        return usual(files, **options)

    monkeypatch.setattr(decoder, "_decode_jpeg", fussy)
    with caplog.at_level(logging.INFO):
        first, second, third = decoder.decode([PLAIN["colour"], refused, PLAIN["grey"]])
    assert second is None
    assert first.tobytes() == JpegDecoder(torch.device("cpu"), Limits()).decode([PLAIN["colour"]])[0].tobytes()
    assert third is not None
    assert (decoder.counts.decoded, decoder.counts.refused) == (2, 1)
    assert "refused 1 of 3 JPEG files" in caplog.text
    assert "nvjpegDecode failed: 2" in caplog.text


def test_a_worker_without_a_gpu_is_told_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"worker\.gpu_decode is set, but this worker's device is cpu: leave it out"):
        JpegDecoder.for_gpu(torch.device("cpu"), Limits())
