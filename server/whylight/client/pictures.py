"""The forms in which a caller may hold a picture, made into what travels; judges no content: the server does."""

from __future__ import annotations

import io
import os
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as pil

from whylight.decode import upright_rgb
from whylight.errors import InvalidInput

Image: TypeAlias = "str | os.PathLike[str] | bytes | pil.Image | npt.NDArray[Any]"
"""A path, the bytes of a file, a Pillow image, a uint8 array `[H, W, 3]`, or a float array `[C, H, W]`.

A float array is the model's normalised input as it is; everything else goes through the model's transform.
"""

_RAW_PIXELS = 4 * 2**20
"""Up to here a Pillow image travels as it is, which saves the time of packing it; above, as PNG, to fit a message."""


def read_picture(image: Image, field: str) -> bytes | npt.NDArray[Any]:
    """Return the bytes of a picture file, or an array of uint8, float32 or float16.

    A Pillow image is turned upright and made RGB by the same function that the server reads files with, so that a
    picture gives the same answer opened here and sent as a file.

    Raises:
        InvalidInput: a file that cannot be read, or pixels of an unknown range (IMAGE_UNREADABLE); an array of another
            type or shape (TENSOR_INVALID); something else (REQUEST_INVALID).
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return _read_file(os.fspath(image), field)
    if isinstance(image, pil.Image):
        return _read_pillow(image, field)
    if isinstance(image, np.ndarray):
        return _read_array(image, field)
    raise InvalidInput(
        f"a {type(image).__name__} is no picture: give a path, bytes, a Pillow image or a NumPy array", field=field
    )


def _read_file(path: str, field: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", reason="IMAGE_UNREADABLE", field=f"{field}.image") from error


def _read_pillow(image: pil.Image, field: str) -> bytes | npt.NDArray[Any]:
    try:
        image = upright_rgb(image)
    except InvalidInput as error:
        raise InvalidInput(error.message, reason=error.reason, field=f"{field}.image") from None
    if image.width * image.height <= _RAW_PIXELS:
        return np.asarray(image)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _read_array(array: npt.NDArray[Any], field: str) -> npt.NDArray[Any]:
    if array.dtype == np.uint8:
        wanted, right = "[height, width, 3]", array.ndim == 3 and array.shape[2] == 3
    elif array.dtype.kind == "f":
        wanted, right = "[channels, height, width]", array.ndim == 3
    else:
        raise InvalidInput(
            f"an array of {array.dtype} is neither a picture (uint8) nor a model's input (float)",
            reason="TENSOR_INVALID",
            field=f"{field}.tensor.dtype",
        )
    if not right:
        hint = "; give several as a list" if array.ndim == 4 else ""
        raise InvalidInput(
            f"an array of {array.dtype} is one {wanted}, not {list(array.shape)}{hint}",
            reason="TENSOR_INVALID",
            field=f"{field}.tensor.shape",
        )
    return array if array.dtype.itemsize <= 4 else array.astype(np.float32)
