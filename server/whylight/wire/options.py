"""Options as protobuf's Struct and as a dictionary; knows nothing of what they mean."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value

from whylight.errors import InvalidInput

_EXACT = 1 << 53  # a Struct holds every number as a double: up to here it holds all integers
_DEPTH = 30  # protobuf parses 100 nested messages at most, and one level here nests three


def struct_to_dict(struct: Struct, field: str = "options") -> dict[str, Any]:
    """Return a Struct as a dictionary. Numbers without a fraction become integers again: a Struct knows doubles only.

    Raises:
        InvalidInput: a value that is not set, or is NaN or infinite (OPTION_INVALID).
    """
    return {name: _read(value, f"{field}.{name}") for name, value in struct.fields.items()}


def list_to_values(values: ListValue, field: str) -> list[Any]:
    """Return a ListValue as a list, under the rules of `struct_to_dict`."""
    return [_read(value, f"{field}[{index}]") for index, value in enumerate(values.values)]


def values_to_list(values: Iterable[Any], field: str) -> ListValue:
    """Return JSON values as a ListValue, under the rules of `dict_to_struct`."""
    message = ListValue()
    for index, value in enumerate(values):
        _write(message.values.add(), value, f"{field}[{index}]", 0)
    return message


def dict_to_struct(values: Mapping[str, Any], field: str = "options") -> Struct:
    """Return a dictionary of JSON values (None, bool, number, text, lists and dictionaries of them) as a Struct.

    Raises:
        InvalidInput: a value of another type, a number that is not finite, an integer that a double cannot hold, keys
            that are not text, or more than 30 levels (OPTION_INVALID).
    """
    struct = Struct()
    _fill(struct, values, field, 0)
    return struct


def _read(value: Value, field: str) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise _invalid(field, "the value is not set")
    if kind == "null_value":
        return None
    if kind == "struct_value":
        return struct_to_dict(value.struct_value, field)
    if kind == "list_value":
        return list_to_values(value.list_value, field)
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):
            raise _invalid(field, f"{number} is not a finite number")
        return int(number) if number.is_integer() and abs(number) <= _EXACT else number
    return value.string_value if kind == "string_value" else value.bool_value


def _fill(struct: Struct, values: Mapping[str, Any], field: str, depth: int) -> None:
    if depth > _DEPTH:
        raise _invalid(field, f"more than {_DEPTH} levels")
    for name, value in values.items():
        if not isinstance(name, str):
            raise _invalid(field, f"the key {name!r} is not text")
        _write(struct.fields[name], value, f"{field}.{name}", depth)


def _write(slot: Value, value: Any, field: str, depth: int) -> None:
    if depth > _DEPTH:
        raise _invalid(field, f"more than {_DEPTH} levels")
    if value is None:
        slot.null_value = NullValue.NULL_VALUE
    elif isinstance(value, bool):
        slot.bool_value = value
    elif isinstance(value, str):
        slot.string_value = value
    elif isinstance(value, numbers.Real):
        slot.number_value = _number(value, field)
    elif isinstance(value, Mapping):
        slot.struct_value.SetInParent()
        _fill(slot.struct_value, value, field, depth + 1)
    elif isinstance(value, list | tuple):
        slot.list_value.SetInParent()
        for index, item in enumerate(value):
            _write(slot.list_value.values.add(), item, f"{field}[{index}]", depth + 1)
    else:
        raise _invalid(field, f"a {type(value).__name__} is none of null, boolean, number, text, list, dictionary")


def _number(value: numbers.Real, field: str) -> float:
    if isinstance(value, numbers.Integral) and abs(int(value)) > _EXACT:
        raise _invalid(field, f"{int(value)} is beyond 2**53, where options stop holding every integer")
    number = float(value)
    if not math.isfinite(number):
        raise _invalid(field, f"{number} is not a finite number")
    return number


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="OPTION_INVALID", field=field)
