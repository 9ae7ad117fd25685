"""Turns what a caller sends, an image file or an array, into checked pixels; knows neither models nor torch.

Everything here may run in many threads at once: no state is kept, and Pillow lets the interpreter go while it decodes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin

from whylight.errors import InvalidInput
from whylight.frozen_array import FrozenArray
from whylight.limits import Limits

# Their modules are imported above: Pillow loads every decoder it has to find one that is not yet there.
FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
)
"""Image files that are read. Others are refused unopened: each further decoder is a further way in for bad data."""

KEPT_PIXELS = 16 * 2**20
"""Pixels of an original that is kept from when it is decoded until it is drawn on: more than most cameras make."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIELD = "input.image"


@dataclass(frozen=True)
class PlainJpeg:
    """What the header of a JPEG file says: its size in pixels as stored, and the EXIF orientation, 1 for upright."""

    width: int
    height: int
    orientation: int


@dataclass(frozen=True)
class DecodedInput:
    """An input, checked, decoded and cut to what the model takes.

    `values` is uint8 `[H, W, 3]`, the pixels that the model sees, still to be normalised; or float32 `[C, H, W]`, a
    normalised input that the caller sent. `seen` is the picture `[H, W, 3]` that overlays are drawn on and `original`
    the whole picture that the caller gave, uint8 `[height, width, 3]`; each is None where no output of the plan draws
    on it. An original above `KEPT_PIXELS` is not kept: `again` decodes it once more when it is drawn on, so that a
    batch of small files that are large pictures fits into memory. `box` (left, top, right, bottom) is what the model
    sees, in pixels of the original, which is `original_size` (width, height) large. `decode_time` is in seconds.
    `companions` are what the model takes besides the picture, by
    name; `references` the pictures that targets compare it with, by what was sent.
    """

    values: npt.NDArray[Any] = field(repr=False)
    seen: npt.NDArray[np.uint8] | None = field(repr=False)
    original: npt.NDArray[np.uint8] | None = field(repr=False)
    box: tuple[float, float, float, float]
    original_size: tuple[int, int]
    decode_time: float = 0.0
    companions: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)
    references: Mapping[bytes | FrozenArray, DecodedInput] = field(default_factory=dict, repr=False)
    again: Callable[[], npt.NDArray[np.uint8]] | None = field(default=None, repr=False)

    def drawn_on(self) -> npt.NDArray[np.uint8]:
        """Return the original, which the plan draws on."""
        if self.original is not None:
            return self.original
        assert self.again is not None
        return self.again()

    @property
    def is_picture(self) -> bool:
        """Whether the model's normalisation is still to be applied."""
        return self.values.dtype == np.uint8

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        height, width = self.values.shape[:2] if self.is_picture else self.values.shape[1:]
        return int(height), int(width)

    @property
    def shapes(self) -> tuple[Any, ...]:
        """What must be equal for two inputs to run together: the size, and the shape of each companion."""
        return self.size, *((name, array.shape) for name, array in self.companions.items())

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """The box in whole pixels, at least one wide and high. It may reach beyond the original, where a model pads."""
        left, top, right, bottom = (round(edge) for edge in self.box)
        return left, top, max(right, left + 1), max(bottom, top + 1)


def decode_image(data: bytes, limits: Limits) -> Image.Image:
    """Decode a JPEG, PNG or WebP file to an upright RGB picture; of an animation, the first frame.

    The size is taken from the file's header and checked before any pixel is decoded. See `upright_rgb` for colours.

    Raises:
        InvalidInput: IMAGE_UNREADABLE (no such file, damaged, cut off) or IMAGE_TOO_LARGE.
    """
    image = _opened(data, limits)
    try:
        image.load()
        return upright_rgb(image)
    except InvalidInput:
        raise
    except MemoryError:
        raise _too_large(f"there is no memory for an image of {image.width} x {image.height} pixels") from None
    except Exception as error:
        raise _unreadable(f"the image cannot be decoded: {error}") from None


def plain_jpeg(data: bytes, limits: Limits) -> PlainJpeg | None:
    """Read the header of a JPEG file that any decoder makes the same picture of, but for rounding; no pixel.

    None for everything else, whatever is wrong with it, which `decode_image` tells: no JPEG file, one that breaks a
    limit or is above `KEPT_PIXELS`, one that is cut off, and one whose colours are CMYK or stored as RGB.
    """
    if not data.startswith(b"\xff\xd8") or not data.endswith(b"\xff\xd9"):
        return None
    try:
        image = _opened(data, limits)
    except InvalidInput:
        return None
    if type(image) is not JpegImagePlugin.JpegImageFile or image.width * image.height > KEPT_PIXELS:
        return None
    components = tuple(layer[0] for layer in image.layer)
    known = image.mode == "L" or (
        image.mode == "RGB"
        and ("jfif" in image.info or image.info.get("adobe_transform") == 1 or components == (1, 2, 3))
    )
    return PlainJpeg(image.width, image.height, _orientation(image)) if known else None


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a picture upright, given the EXIF orientation."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _opened(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise _unreadable("the image is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unreadable(f"the {len(data)} bytes are no readable {', '.join(FORMATS)} file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(f"the image has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # a damaged file raises whatever the decoder trips over
        raise _unreadable(f"the image cannot be read: {error}") from None
    check_pixels(image.width, image.height, limits, _FIELD)
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture upright, as its EXIF data says, and make it RGB.

    Transparent pixels are laid over white, as a browser shows them. 16-bit grey is scaled to 8 bits, not clipped.

    Raises:
        InvalidInput: IMAGE_UNREADABLE, for floating-point pixels, whose range is not known.
    """
    image = turned(image, _orientation(image))
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise _unreadable("pictures of floating-point pixels are not read; send an array")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def decode_pixels(array: npt.NDArray[Any], limits: Limits) -> Image.Image:
    """Read a uint8 array `[H, W, 3]` as an RGB picture.

    Raises:
        InvalidInput: TENSOR_INVALID for another type or shape, IMAGE_TOO_LARGE.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        hint = ""
        if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 4)):
            hint = "; make it RGB, with PIL for example"
        elif array.ndim == 3 and array.shape[0] in (1, 3):
            hint = "; the channels come last"
        raise _tensor_invalid(
            "shape", f"a picture is uint8 of shape [height, width, 3], not {array.dtype} of {list(array.shape)}{hint}"
        )
    check_pixels(array.shape[1], array.shape[0], limits, "input.tensor.shape")
    return Image.fromarray(np.ascontiguousarray(array))


def decode_tensor(array: npt.NDArray[Any], channels: int, limits: Limits) -> npt.NDArray[np.float32]:
    """Check a float array `[channels, H, W]`, a model's normalised input, and return it as float32.

    Raises:
        InvalidInput: TENSOR_INVALID for a wrong type or shape, NaN or infinity; TENSOR_TOO_LARGE.
    """
    if array.dtype.kind != "f":
        raise _tensor_invalid("dtype", f"{array.dtype} is neither uint8 (a picture) nor a float type (a model's input)")
    if array.ndim != 3 or array.shape[0] != channels or 0 in array.shape:
        hint = "; pictures [height, width, 3] are uint8" if array.ndim == 3 and array.shape[2] == 3 else ""
        raise _tensor_invalid(
            "shape", f"the model's input is [{channels}, height, width], not {list(array.shape)}{hint}"
        )
    if array.size > limits.tensor_elements:
        raise InvalidInput(
            f"{array.size} elements are more than {limits.tensor_elements}",
            reason="TENSOR_TOO_LARGE",
            field="input.tensor.shape",
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinity
        values = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        bad = np.unravel_index(int(np.argmin(finite)), values.shape)
        kind = "NaN" if np.isnan(values[bad]) else "infinity"
        raise _tensor_invalid("data", f"{kind} at {[int(index) for index in bad]}")
    return values


def companion_array(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return numbers as companions are held: whole ones as int64, others as float32.

    Raises:
        InvalidInput: they are no numbers, or no array (TENSOR_INVALID).
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInput(f"no array of numbers: {error}", reason="TENSOR_INVALID", field="companions") from None
    if array.dtype.kind not in "buif":
        raise InvalidInput(f"{array.dtype} is no type of numbers", reason="TENSOR_INVALID", field="companions")
    return array.astype(np.int64 if array.dtype.kind in "bui" else np.float32, copy=False)


def check_pixels(width: int, height: int, limits: Limits, field: str) -> None:
    """Refuse a picture with more pixels than the limit.

    Raises:
        InvalidInput: IMAGE_TOO_LARGE.
    """
    if width * height > limits.image_pixels:
        raise _too_large(f"{width} x {height} pixels are more than {limits.image_pixels}", field)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data says nothing about the pixels; viewers show such files as they are
        return 1


def _unreadable(message: str) -> InvalidInput:
    return InvalidInput(message, reason="IMAGE_UNREADABLE", field=_FIELD)


def _too_large(message: str, field: str = _FIELD) -> InvalidInput:
    return InvalidInput(message, reason="IMAGE_TOO_LARGE", field=field)


def _tensor_invalid(part: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="TENSOR_INVALID", field=f"input.tensor.{part}")
