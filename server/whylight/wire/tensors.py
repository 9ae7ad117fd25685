"""Arrays of numbers as messages; checks that type, shape and bytes fit each other, and knows no meaning of them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from whylight.errors import InvalidInput
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import path

_DTYPES: dict[pb.DataType, np.dtype[Any]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    pb.DATA_TYPE_UINT8: np.dtype("u1"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
}
ARRAYS = (pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_UINT8)
"""Types of inputs and of artifacts."""

COMPANION_TYPES = (pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_INT64)
_NUMBERS = {dtype.name: number for number, dtype in _DTYPES.items()}
_DIMENSIONS = 8
_ELEMENTS = 1 << 40  # beyond any message, and far below where numpy's own arithmetic overflows


def tensor_to_array(
    message: pb.Tensor,
    field: str = "tensor",
    *,
    max_elements: int | None = None,
    types: Collection[pb.DataType] = ARRAYS,
) -> npt.NDArray[Any]:
    """Return a Tensor of one of `types` as a read-only array.

    Raises:
        InvalidInput: a type that is not given or not known, a negative or impossible shape, bytes that do not match the
            shape (TENSOR_INVALID), more than `max_elements` elements (TENSOR_TOO_LARGE).
    """
    dtype = _DTYPES.get(message.dtype)
    if dtype is None or message.dtype not in types:
        given = (
            "no type is given"
            if message.dtype == pb.DATA_TYPE_UNSPECIFIED
            else f"unknown type {message.dtype}"
            if dtype is None
            else f"{dtype.name} has no place here"
        )
        *others, last = [_DTYPES[number].name.upper() for number in types]
        raise _invalid(path(field, "dtype"), f"{given}; there are {', '.join(others)} and {last}")
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


def array_to_tensor(
    array: npt.NDArray[Any], field: str = "tensor", *, types: Collection[pb.DataType] = ARRAYS
) -> pb.Tensor:
    """Return an array of one of `types`, of any memory layout, as a Tensor.

    Raises:
        InvalidInput: another type, or more than 8 dimensions (TENSOR_INVALID).
    """
    number = _NUMBERS.get(array.dtype.name)
    if number is None or number not in types:
        known = ", ".join(_DTYPES[each].name for each in types)
        raise _invalid(path(field, "dtype"), f"{array.dtype.name} is none of {known}")
    if array.ndim > _DIMENSIONS:
        raise _invalid(path(field, "shape"), f"{array.ndim} dimensions, more than {_DIMENSIONS}")
    little_endian = array.astype(_DTYPES[number], copy=False)
    return pb.Tensor(dtype=number, shape=array.shape, data=little_endian.tobytes())


def _show(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="TENSOR_INVALID", field=field)
