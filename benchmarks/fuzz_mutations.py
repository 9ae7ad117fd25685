"""Spoils requests: fields of messages, and bytes of what was serialised; knows no call and sends nothing.

Everything is drawn from one `random.Random`, so that a run can be repeated request by request.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

NUMBERS: dict[int, Sequence[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 2, 255, 2**16, 2**31 - 1, -(2**31)),
    FieldDescriptor.CPPTYPE_INT64: (0, 1, -1, 3, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, -(2**63)),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2, 1000, 2**31, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2**32, 2**53 + 1, 2**63, 2**64 - 1),
    FieldDescriptor.CPPTYPE_FLOAT: (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3e38, float("inf"), float("-inf"), float("nan")),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, 1.0, -1.0, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    FieldDescriptor.CPPTYPE_BOOL: (True, False),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1),
}
TEXTS = (
    *("", " ", "\0", "a\0b", "é" * 40, "\U0001f600", "‮abc", "a" * 257, "b" * 70_000, "%s%n%x", "{0.__class__}"),
    *("../../../../etc/passwd", "file:///etc/passwd", "python:os:system", "http://127.0.0.1:1/", "'; drop table--"),
    *("tiny", "grad-cam", "saliency", "deepdream", "deletion", "features", "classifier", "0", "-1", "1e999", "NaN"),
    *("layer", "layers", "steps", "samples", "target", "baseline", "window", "profile", "smoothing", "seed"),
)
KNOWN_OPTIONS = (
    *("layer", "layers", "steps", "samples", "masks", "window", "stride", "baseline", "profile", "rule", "composite"),
    *("aug_smooth", "eigen_smooth", "relu", "sigma", "noise", "internal_batch", "percentile", "absolute", "size"),
    *("octaves", "learning_rate", "jitter", "segments", "kernel_width", "resolution", "probability", "patches"),
)


def spoil_message(message: Message, chance: random.Random, others: Sequence[Message]) -> None:
    """Change one field somewhere in a message; `others` lend parts of theirs."""
    holder = chance.choice(list(_messages(message)))
    if isinstance(holder, struct_pb2.Struct):
        _spoil_struct(holder, chance)
        return
    fields = holder.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    with contextlib.suppress(ValueError, TypeError, UnicodeError):  # what cannot be set is no request
        if _is_repeated(field):
            _spoil_repeated(holder, field, chance)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            _spoil_submessage(holder, field, chance, others)
        else:
            setattr(holder, field.name, _scalar(field, chance, getattr(holder, field.name)))


def spoil_bytes(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Change some bytes; `other` lends a piece."""
    spoiled = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.randrange(len(spoiled) + 1)
        end = min(len(spoiled), place + chance.choice((1, 1, 2, 4, 8, 64, 1024)))
        kind = chance.randrange(9)
        if kind == 0 and spoiled:
            spoiled[place % len(spoiled)] ^= 1 << chance.randrange(8)
        elif kind == 1 and spoiled:
            spoiled[place % len(spoiled)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            del spoiled[place:end]
        elif kind == 3:
            spoiled[place:place] = spoiled[place:end] * chance.choice((1, 2, 50))
        elif kind == 4:
            spoiled[place:place] = chance.randbytes(chance.choice((1, 2, 5, 20)))
        elif kind == 5:
            del spoiled[place:]
        elif kind == 6:
            start = chance.randrange(len(other) + 1)
            spoiled[place:end] = other[start : start + chance.choice((4, 32, 256))]
        elif kind == 7:
            spoiled[place:end] = b"\xff" * chance.choice((4, 9, 10, 11))  # varints that do not end
        else:
            spoiled[place:end] = bytes((chance.randrange(256),)) * chance.choice((2, 8, 100))  # groups, deep nesting
    return bytes(spoiled)


def _is_repeated(field: FieldDescriptor) -> bool:
    known: Any = getattr(field, "is_repeated", None)  # protobuf 6.31 has only the other
    return field.label == FieldDescriptor.LABEL_REPEATED if known is None else bool(known)


def _messages(message: Message) -> Iterator[Message]:
    """Yield a message and those within it that are set; of long lists, the first ones."""
    yield message
    if isinstance(message, struct_pb2.Struct):
        return
    for field, value in message.ListFields():
        if field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE:
            continue
        if not _is_repeated(field):
            yield from _messages(value)
        elif hasattr(value, "values"):
            for key in list(value)[:4]:
                yield from _messages(value[key]) if isinstance(value[key], Message) else ()
        else:
            for each in list(value)[:4]:
                yield from _messages(each)


def _scalar(field: FieldDescriptor, chance: random.Random, now: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return spoil_bytes(now or b"\0", chance, chance.randbytes(64))
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return chance.choice(TEXTS)
    return chance.choice(NUMBERS[field.cpp_type])


def _spoil_repeated(holder: Message, field: FieldDescriptor, chance: random.Random) -> None:
    values = getattr(holder, field.name)
    if hasattr(values, "values"):  # a map
        if field.message_type.fields_by_name["value"].cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            values[chance.choice(TEXTS)].SetInParent()
        return
    kind = chance.randrange(4)
    if kind == 0:
        holder.ClearField(field.name)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        if values and kind == 1:
            del values[chance.randrange(len(values))]
        elif values:
            count = chance.choice((1, 2, 9, 70, 300))
            with contextlib.suppress(DecodeError):  # messages are copied as bytes, and a text may be spoiled already
                values.extend([values[0]] * count)
        else:
            values.add()
    elif kind == 1 and values:
        values[chance.randrange(len(values))] = _scalar(field, chance, values[0])
    else:
        values.extend([_scalar(field, chance, b"")] * chance.choice((1, 1, 3, 40, 5000)))


def _spoil_submessage(
    holder: Message, field: FieldDescriptor, chance: random.Random, others: Sequence[Message]
) -> None:
    kind = chance.randrange(3)
    if kind == 0:
        holder.ClearField(field.name)
        return
    getattr(holder, field.name).SetInParent()
    if kind == 1:
        return
    wanted = field.message_type.full_name
    donors = [part for part in _messages(chance.choice(others)) if part.DESCRIPTOR.full_name == wanted]
    if donors:
        getattr(holder, field.name).CopyFrom(chance.choice(donors))


def _spoil_struct(options: struct_pb2.Struct, chance: random.Random) -> None:
    key = chance.choice((*options, *KNOWN_OPTIONS, *TEXTS[:8])) if chance.random() < 0.9 else "k" * 300
    kind = chance.randrange(5)
    if kind == 0:
        number = chance.choice((0, 1, -1, 0.5, 3, 1e9, 2**53, -1e308, float("inf"), float("nan")))
        options.fields[key].number_value = number
    elif kind == 1:
        options.fields[key].string_value = chance.choice(TEXTS)
    elif kind == 2:
        options.fields[key].bool_value = chance.random() < 0.5
    elif kind == 3:
        value = options.fields[key]
        for _ in range(chance.choice((1, 3, 20, 45))):  # protobuf itself reads a hundred messages deep
            value = value.struct_value.fields["k"]
        value.number_value = 1
    else:
        values = options.fields[key].list_value
        for _ in range(chance.choice((0, 1, 3, 2000))):
            values.values.add().number_value = chance.choice((0, 1, -1, 1e300))
