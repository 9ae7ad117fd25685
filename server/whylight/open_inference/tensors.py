"""Tensors of requests and answers, read and written; checks that they hang together, knows no meaning of any."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whylight.errors import InvalidInput
from whylight.open_inference.messages import ModelInferRequest, ModelInferResponse

BYTES = "BYTES"
SIZES = {"UINT8": 1, "INT32": 4, "INT64": 8, "FP16": 2, "BF16": 2, "FP32": 4}
"""Bytes of one element, for the types whose elements have a size."""

TYPED_ELEMENTS = 1 << 20
"""Elements at most of one tensor that is sent as typed contents, or that is BYTES: they are read one by one."""

TENSORS = 16
"""Input tensors of one request at most; none that is served takes more."""

BINARY_DATA_SIZE = "binary_data_size"
"""Name of the one parameter that input tensors may have."""

_CONTENTS = {
    "UINT8": ("uint_contents", "u1"),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "FP32": ("fp32_contents", "<f4"),
    BYTES: ("bytes_contents", ""),
}
_DIMENSIONS = 8
_ELEMENTS = 1 << 40  # beyond any message
_NAME_LENGTH = 256
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class InputTensor:
    """A tensor whose shape and elements fit each other: `data` is little-endian and row-major, or one `bytes` for each
    element of BYTES. `field` is its place in the request.
    """

    field: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | tuple[bytes, ...]


def read_tensors(request: ModelInferRequest, known: Collection[str], *, max_elements: int) -> dict[str, InputTensor]:
    """Return the input tensors of a request by name. Only those of `known` names are read.

    Raises:
        InvalidInput: a tensor, or how they are sent, is wrong, or a name not known (TENSOR_INVALID); one has more
            than `max_elements` elements (TENSOR_TOO_LARGE).
    """
    if len(request.inputs) > TENSORS:
        raise _invalid("inputs", f"{len(request.inputs)} input tensors; {TENSORS} are allowed")
    raw = bool(request.raw_input_contents)
    if raw and len(request.raw_input_contents) != len(request.inputs):
        raise _invalid(
            "raw_input_contents",
            f"{len(request.raw_input_contents)} raw contents for {len(request.inputs)} input tensors; "
            "either all tensors have raw contents or none has",
        )
    tensors: dict[str, InputTensor] = {}
    for index, message in enumerate(request.inputs):
        field = f"inputs[{index}]"
        if message.name not in known:
            raise _invalid(
                f"{field}.name", f"there is no input {message.name[:_NAME_LENGTH]!r}; there are {', '.join(known)}"
            )
        if message.name in tensors:
            raise _invalid(f"{field}.name", f"there is another tensor {message.name!r}")
        sent = request.raw_input_contents[index] if raw else None
        _check_parameters(message, field, sent)
        if sent is not None and message.HasField("contents"):
            raise _invalid(f"{field}.contents", "the tensor has both contents and raw_input_contents; send one of them")
        shape, elements = _shape(message, field, max_elements)
        data = (
            _typed(message, elements, f"{field}.contents")
            if sent is None
            else _raw(message.datatype, elements, sent, f"raw_input_contents[{index}]")
        )
        tensors[message.name] = InputTensor(field, message.name, message.datatype, shape, data)
    return tensors


def write_tensor(
    response: ModelInferResponse, name: str, datatype: str, shape: Sequence[int], data: bytes | Iterable[bytes]
) -> None:
    """Add a tensor to an answer; of BYTES, `data` has one `bytes` for each element."""
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    if not isinstance(data, bytes):
        data = b"".join(part for element in data for part in (_LENGTH.pack(len(element)), element))
    response.raw_output_contents.append(data)


def _check_parameters(message: ModelInferRequest.InferInputTensor, field: str, raw: bytes | None) -> None:
    """Refuse parameters, but for the number of raw bytes that KServe's client tells, which must be true."""
    for name in sorted(message.parameters):
        place = f"{field}.parameters[{name[:_NAME_LENGTH]}]"
        if name != BINARY_DATA_SIZE:
            raise _invalid(
                place,
                f"input tensors have no parameter {name[:_NAME_LENGTH]!r} here; "
                "their elements come with the request, not by shared memory",
            )
        told, sent = message.parameters[name].int64_param, len(raw or b"")
        if told != sent:
            raise _invalid(place, f"{told}, but the raw contents have {sent} bytes")


def _shape(message: ModelInferRequest.InferInputTensor, field: str, max_elements: int) -> tuple[tuple[int, ...], int]:
    if message.datatype != BYTES and message.datatype not in SIZES:
        known = ", ".join([*SIZES, BYTES])
        raise _invalid(f"{field}.datatype", f"the type {message.datatype[:_NAME_LENGTH]!r} is none of {known}")
    if len(message.shape) > _DIMENSIONS:
        raise _invalid(f"{field}.shape", f"{len(message.shape)} dimensions; {_DIMENSIONS} are allowed")
    shape = tuple(message.shape)
    if any(length < 0 for length in shape):
        raise _invalid(f"{field}.shape", f"the shape {list(shape)} has a negative length")
    if math.prod(length for length in shape if length) > _ELEMENTS:
        raise _invalid(f"{field}.shape", f"the shape {list(shape)} is too large to be true")
    elements = math.prod(shape)
    if elements > max_elements:
        raise InvalidInput(
            f"{elements} elements, more than the {max_elements} that are allowed",
            reason="TENSOR_TOO_LARGE",
            field=f"{field}.shape",
        )
    return shape, elements


def _raw(datatype: str, elements: int, data: bytes, field: str) -> bytes | tuple[bytes, ...]:
    if datatype != BYTES:
        if len(data) != elements * SIZES[datatype]:
            raise _invalid(
                field, f"{len(data)} bytes, but {elements} elements of {datatype} take {elements * SIZES[datatype]}"
            )
        return data
    if elements * _LENGTH.size > len(data):
        raise _invalid(field, f"{len(data)} bytes cannot hold {elements} elements of BYTES, each behind its length")
    if elements > TYPED_ELEMENTS:
        raise InvalidInput(
            f"{elements} elements, more than the {TYPED_ELEMENTS} that a tensor of BYTES may have",
            reason="TENSOR_TOO_LARGE",
            field=field,
        )
    found, place = [], 0
    for index in range(elements):
        start = place + _LENGTH.size
        if start > len(data):
            raise _invalid(field, f"the bytes end before element {index}")
        place = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        if place > len(data):
            raise _invalid(
                field, f"element {index} says that it has {place - start} bytes; {len(data) - start} are left"
            )
        found.append(data[start:place])
    if place != len(data):
        raise _invalid(field, f"{len(data) - place} bytes behind the last element")
    return tuple(found)


def _typed(message: ModelInferRequest.InferInputTensor, elements: int, field: str) -> bytes | tuple[bytes, ...]:
    if message.datatype not in _CONTENTS:
        raise _invalid(field, f"elements of {message.datatype} have no contents; send them in raw_input_contents")
    name, dtype = _CONTENTS[message.datatype]
    wrong = [other.name for other, _ in message.contents.ListFields() if other.name != name]
    if wrong:
        raise _invalid(field, f"elements of {message.datatype} belong into {name}, not into {wrong[0]}")
    values = getattr(message.contents, name)
    if len(values) != elements:
        raise _invalid(f"{field}.{name}", f"{len(values)} elements, but the shape {list(message.shape)} has {elements}")
    if elements > TYPED_ELEMENTS:
        raise InvalidInput(
            f"{elements} elements, more than the {TYPED_ELEMENTS} that contents may have; send raw_input_contents",
            reason="TENSOR_TOO_LARGE",
            field=field,
        )
    if message.datatype == BYTES:
        return tuple(values)
    wide = np.fromiter(values, np.dtype("<u4" if message.datatype == "UINT8" else dtype), count=elements)
    if message.datatype == "UINT8" and elements and wide.max() > 255:
        raise _invalid(f"{field}.{name}", f"{wide.max()} is no UINT8")
    return wide.astype(dtype).tobytes()


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="TENSOR_INVALID", field=field)
