"""What decoding reads, what it refuses, and with which words."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from whylight.decode import decode_image, decode_pixels, decode_tensor
from whylight.errors import InvalidInput
from whylight.limits import Limits

LIMITS = Limits()


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def corners(width: int = 40, height: int = 30) -> Image.Image:
    """A picture whose four quarters differ: red, green, blue, white from top left to bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def refusal(call, *args) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as caught:
        call(*args)
    return caught.value.reason, caught.value.violations[0].field


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read(format):
    pixels = np.asarray(decode_image(encoded(corners(), format), LIMITS)).astype(int)
    assert pixels.shape == (30, 40, 3)
    assert abs(pixels[3, 3] - (255, 0, 0)).max() < 25
    assert abs(pixels[26, 3] - (0, 0, 255)).max() < 25


@pytest.mark.parametrize("format", ["BMP", "GIF", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(format):
    assert refusal(decode_image, encoded(corners(), format), LIMITS) == ("IMAGE_UNREADABLE", "input.image")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBPVP8 "])
def test_what_is_no_picture_is_refused(data):
    assert refusal(decode_image, data, LIMITS) == ("IMAGE_UNREADABLE", "input.image")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_cut_off_file_is_refused(format, part):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, format)
    assert refusal(decode_image, data[: int(len(data) * part)], LIMITS) == ("IMAGE_UNREADABLE", "input.image")


def test_any_damage_is_refused_or_read_never_anything_else():
    generator = np.random.default_rng(1)
    for format in ("PNG", "JPEG", "WEBP"):
        data = encoded(corners(), format)
        for _ in range(200):
            damaged = bytearray(data)
            for position in generator.integers(0, len(data), 3):
                damaged[position] = generator.integers(0, 256)
            with contextlib.suppress(InvalidInput):
                assert decode_image(bytes(damaged), LIMITS).mode == "RGB"


@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 8_000), (8193, 8192)])
def test_a_large_picture_is_refused_by_its_header(size, monkeypatch):
    def decoded(*_):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    assert refusal(decode_image, png_header(*size), LIMITS) == ("IMAGE_TOO_LARGE", "input.image")


def test_the_limit_itself_is_allowed():
    assert decode_image(encoded(corners()), Limits(image_pixels=1200)).size == (40, 30)
    assert refusal(decode_image, encoded(corners()), Limits(image_pixels=1199))[0] == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_undone(format, orientation):
    # The transposition that undoes each orientation is its own inverse, but for the two quarter turns.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    upright = corners()
    stored = upright.transpose(Image.Transpose(inverse[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format != "PNG" else {}
    read = decode_image(encoded(stored, format, exif=exif, **options), LIMITS)
    assert read.size == upright.size
    difference = np.abs(np.asarray(read).astype(int) - np.asarray(upright).astype(int))
    assert difference[5:10, 5:15].max() < 40
    assert difference[20:25, 5:15].max() < 40
    assert difference[5:10, 25:35].max() < 40


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_passed_over():
    data = encoded(corners(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xee" * 30)
    assert decode_image(data, LIMITS).size == (40, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_any_mode_becomes_rgb(mode):
    image = corners().convert(mode)
    read = decode_image(encoded(image, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"), LIMITS)
    assert read.mode == "RGB"
    assert min(read.getpixel((35, 25))) > 245


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_lie_over_white(mode):
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 127))
    data = encoded(image if mode == "RGBA" else image.convert("LA")) if mode != "PA" else encoded(image.quantize(8))
    read = decode_image(data, LIMITS)
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert max(read.getpixel((1, 0))) <= 2
    assert abs(read.getpixel((2, 0))[0] - 128) <= 2


def test_sixteen_bit_grey_is_scaled_not_clipped():
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    read = np.asarray(decode_image(encoded(Image.fromarray(levels)), LIMITS))
    assert read[0, :, 0].tolist() == [0, 1, 128, 255]


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("PNG", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=100)
        assert decode_image(data, LIMITS).getpixel((4, 4))[0] > 240


def test_a_stereo_jpeg_gives_its_first_picture():
    buffer = io.BytesIO()
    pair = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pair[0].save(buffer, "MPO", save_all=True, append_images=pair[1:])
    assert decode_image(buffer.getvalue(), LIMITS).getpixel((4, 4))[0] > 240


def test_no_other_decoder_is_even_loaded(tmp_path):
    path = tmp_path / "picture.webp"
    corners().save(path)
    code = (
        "import sys; from whylight.decode import decode_image; from whylight.limits import Limits; "
        f"decode_image(open({str(path)!r}, 'rb').read(), Limits()); "
        "print(*sorted(set(sys.modules) & {'PIL.PsdImagePlugin', 'PIL.EpsImagePlugin'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_many_threads_decode_alike():
    data = encoded(corners(400, 300), "JPEG")
    expected = decode_image(data, LIMITS).tobytes()
    wrong = []

    def work():
        wrong.extend(1 for _ in range(10) if decode_image(data, LIMITS).tobytes() != expected)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_uint8_arrays_are_pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(np.asarray(decode_pixels(pixels, LIMITS)), pixels)
    assert np.array_equal(np.asarray(decode_pixels(pixels[::-1, ::2], LIMITS)), pixels[::-1, ::2])


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (5, 7, 4), (5, 7, 1), (0, 7, 3), (1, 5, 7, 3)])
def test_other_uint8_shapes_are_refused(shape):
    assert refusal(decode_pixels, np.zeros(shape, np.uint8), LIMITS) == ("TENSOR_INVALID", "input.tensor.shape")


def test_large_uint8_arrays_are_refused():
    wide = np.zeros((1, 1, 3), np.uint8)
    wide = np.lib.stride_tricks.as_strided(wide, (8193, 8192, 3), (0, 0, 1))
    assert refusal(decode_pixels, wide, LIMITS) == ("IMAGE_TOO_LARGE", "input.tensor.shape")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_are_taken_as_they_are(dtype):
    values = np.linspace(-2, 2, 24).reshape(2, 3, 4).astype(dtype)
    read = decode_tensor(values, 2, LIMITS)
    assert read.dtype == np.float32
    assert np.array_equal(read, values.astype(np.float32))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_numbers_that_are_none_are_named(value, word):
    values = np.zeros((3, 4, 5), np.float32)
    values[1, 2, 3] = value
    with pytest.raises(InvalidInput, match=rf"{word} at \[1, 2, 3\]") as caught:
        decode_tensor(values, 3, LIMITS)
    assert (caught.value.reason, caught.value.violations[0].field) == ("TENSOR_INVALID", "input.tensor.data")


def test_a_float64_beyond_float32_is_infinity():
    values = np.full((1, 1, 1), 1e300)
    assert refusal(decode_tensor, values, 1, LIMITS) == ("TENSOR_INVALID", "input.tensor.data")


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (4, 4, 3), (3, 0, 4), (1, 3, 4, 4)])
def test_other_float_shapes_are_refused(shape):
    refused = refusal(decode_tensor, np.zeros(shape, np.float32), 3, LIMITS)
    assert refused == ("TENSOR_INVALID", "input.tensor.shape")


def test_too_many_elements_and_other_types_are_refused():
    many = np.zeros((3, 5, 5), np.float32)
    assert refusal(decode_tensor, many, 3, Limits(tensor_elements=74)) == ("TENSOR_TOO_LARGE", "input.tensor.shape")
    assert refusal(decode_tensor, many.astype(np.int32), 3, LIMITS) == ("TENSOR_INVALID", "input.tensor.dtype")
