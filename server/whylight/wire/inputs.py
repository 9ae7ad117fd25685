"""Inputs and tensors as messages and as bytes and arrays; checks that they hang together, decodes no picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from whylight.errors import InvalidInput
from whylight.target import Target
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import path
from whylight.wire.targets import target_to_proto

_DTYPES: dict[pb.DataType, np.dtype[Any]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    pb.DATA_TYPE_UINT8: np.dtype("u1"),
}
_NUMBERS = {dtype.name: number for number, dtype in _DTYPES.items()}
_DIMENSIONS = 8
_ELEMENTS = 1 << 40  # beyond any message, and far below where numpy's own arithmetic overflows


def tensor_to_array(message: pb.Tensor, field: str = "tensor", *, max_elements: int | None = None) -> npt.NDArray[Any]:
    """Return a Tensor as a read-only array.

    Raises:
        InvalidInput: a type that is not given or not known, a negative or impossible shape, bytes that do not match the
            shape (TENSOR_INVALID), more than `max_elements` elements (TENSOR_TOO_LARGE).
    """
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        given = "no type is given" if message.dtype == pb.DATA_TYPE_UNSPECIFIED else f"unknown type {message.dtype}"
        raise _invalid(path(field, "dtype"), f"{given}; there are FLOAT32, FLOAT16 and UINT8")
    shape = tuple(message.shape)
    if len(shape) > _DIMENSIONS:
        raise _invalid(path(field, "shape"), f"{len(shape)} dimensions, more than {_DIMENSIONS}")
    if any(length < 0 for length in shape):
        raise _invalid(path(field, "shape"), f"the shape {_show(shape)} has a negative length")
    if math.prod(length for length in shape if length) > _ELEMENTS:
        raise _invalid(path(field, "shape"), f"the shape {_show(shape)} is too large to be true")
    elements = math.prod(shape)
    if max_elements is not None and elements > max_elements:
        raise InvalidInput(
            f"{elements} elements, more than the {max_elements} that are allowed",
            reason="TENSOR_TOO_LARGE",
            field=path(field, "shape"),
        )
    needed = elements * dtype.itemsize
    data = message.data  # each look at it makes a copy
    if needed != len(data):
        raise _invalid(
            path(field, "data"),
            f"{len(data)} bytes, but the shape {_show(shape)} of {dtype.name} needs {needed}",
        )
    return np.frombuffer(data, dtype).reshape(shape)


def array_to_tensor(array: npt.NDArray[Any]) -> pb.Tensor:
    """Return an array of float32, float16 or uint8, of any memory layout, as a Tensor.

    Raises:
        InvalidInput: another type, or more than 8 dimensions (TENSOR_INVALID).
    """
    number = _NUMBERS.get(array.dtype.name)
    if number is None:
        raise _invalid("tensor.dtype", f"{array.dtype.name} is none of float32, float16, uint8")
    if array.ndim > _DIMENSIONS:
        raise _invalid("tensor.shape", f"{array.ndim} dimensions, more than {_DIMENSIONS}")
    little_endian = array.astype(_DTYPES[number], copy=False)
    return pb.Tensor(dtype=number, shape=array.shape, data=little_endian.tobytes())


def input_from_proto(
    message: pb.Input, field: str = "input", *, max_elements: int | None = None
) -> bytes | npt.NDArray[Any]:
    """Return what an Input holds: the bytes of a picture file, or an array as `tensor_to_array` gives it.

    Raises:
        InvalidInput: neither is set (REQUEST_INVALID), the picture is empty (IMAGE_UNREADABLE), or the tensor is wrong.
    """
    kind = message.WhichOneof("data")
    if kind is None:
        raise InvalidInput("the input holds neither an image nor a tensor", reason="REQUEST_INVALID", field=field)
    if kind == "tensor":
        return tensor_to_array(message.tensor, path(field, "tensor"), max_elements=max_elements)
    image = message.image  # each look at it makes a copy
    if not image:
        raise InvalidInput("the image has no bytes", reason="IMAGE_UNREADABLE", field=path(field, "image"))
    return image


def input_to_proto(data: bytes | npt.NDArray[Any], targets: Iterable[Target] = ()) -> pb.Input:
    """Return the bytes of a picture file, or an array, as an Input with `targets` of its own."""
    own = [target_to_proto(target) for target in targets]
    if isinstance(data, bytes):
        return pb.Input(image=data, targets=own)
    return pb.Input(tensor=array_to_tensor(data), targets=own)


def _show(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="TENSOR_INVALID", field=field)
