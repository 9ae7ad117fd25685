"""Parameters of requests and of wanted outputs, read into typed values; knows what they are called, runs nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from whylight.errors import InvalidInput
from whylight.limits import Limits
from whylight.open_inference.messages import InferParameter
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import dict_to_struct

Value: TypeAlias = bool | int | float | str

PARAMETERS = 256
"""Parameters of one request, or of one wanted output, at most."""

OPTION = "option."
"""What the name of a parameter begins with that is an option of the method."""

FINAL_RESPONSE = "triton_enable_empty_final_response"
"""What tritonclient asks with for a mark on the last answer to a request of a stream. Every answer is the last."""

_NAMES = (
    f"{OPTION}NAME",
    "options",
    "method",
    "seed",
    "target",
    "targets",
    "top_predictions",
    "timeout",
    "priority",
)


@dataclass(frozen=True)
class Parameters:
    """What the parameters of a request say. `timeout` in seconds; `priority` as Triton counts it: 0 the default, 1 the
    highest, which is the default here; what is below is bulk work. `single_options` came by parameters of their own.
    """

    options: Struct = field(default_factory=Struct)
    single_options: tuple[str, ...] = ()
    method: str = ""
    seed: int | None = None
    targets: tuple[v1.Target, ...] = ()
    top_predictions: int | None = None
    timeout: float | None = None
    priority: int = 0
    mark_final: bool = False


def read_parameters(messages: Mapping[str, InferParameter], limits: Limits) -> Parameters:
    """Return what the parameters of a request say.

    Raises:
        InvalidInput: one is unknown, of another type than it has, or out of range (OPTION_INVALID, TARGET_INVALID).
    """
    values = read_values(messages, "parameters")
    options: dict[str, Any] = {}
    for name in sorted(values):
        if name.startswith(OPTION):
            options[name.removeprefix(OPTION)] = values.pop(name)
    single_options = tuple(options)
    for name, value in _json(values, "options", dict, limits).items():
        if name in options:
            raise _invalid("parameters[options]", f"the option {name!r} is given as {OPTION}{name} too")
        options[name] = value
    seed = _integer(values, "seed", 2**64 - 1)
    timeout = _integer(values, "timeout", 2**63 - 1) or None
    found = Parameters(
        options=dict_to_struct(options, "parameters[options]"),
        single_options=single_options,
        method=_text(values, "method"),
        seed=seed,
        targets=_targets(values, limits),
        top_predictions=_integer(values, "top_predictions", 2**32 - 1),
        timeout=None if timeout is None else timeout / 1e6,
        priority=_integer(values, "priority", 2**32 - 1) or 0,
        mark_final=_flag(values, FINAL_RESPONSE),
    )
    refuse_unknown(values, "parameters", _NAMES)
    return found


def read_values(messages: Mapping[str, InferParameter], place: str) -> dict[str, Value]:
    """Return parameters as plain values.

    Raises:
        InvalidInput: there are too many, or one has no value (OPTION_INVALID).
    """
    if len(messages) > PARAMETERS:
        raise _invalid(place, f"{len(messages)} parameters; {PARAMETERS} are allowed")
    values: dict[str, Value] = {}
    for name, message in messages.items():
        kind = message.WhichOneof("parameter_choice")
        if kind is None:
            raise _invalid(f"{place}[{name[:256]}]", "the parameter has no value")
        values[name] = getattr(message, kind)
    return values


def refuse_unknown(values: Mapping[str, Value], place: str, known: tuple[str, ...]) -> None:
    """Refuse what nobody has taken.

    Raises:
        InvalidInput: there is something left (OPTION_INVALID).
    """
    for name in sorted(values)[:1]:
        raise InvalidInput(
            f"there is no parameter {name[:256]!r} here; there are {', '.join(known) or 'none'}",
            reason="OPTION_INVALID",
            field=f"{place}[{name[:256]}]",
            metadata={"parameter": name[:256]},
        )


def take(values: dict[str, Value], name: str, kinds: type | tuple[type, ...], what: str, place: str) -> Any:
    """Take a value of one of `kinds` out of `values`, None where there is none.

    Raises:
        InvalidInput: it is of another kind (OPTION_INVALID).
    """
    if name not in values:
        return None
    value = values.pop(name)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise _invalid(f"{place}[{name}]", f"{name} is {what}, not {_show(value)}")
    return value


def _targets(values: dict[str, Value], limits: Limits) -> tuple[v1.Target, ...]:
    if "target" in values and "targets" in values:
        raise _invalid("parameters[targets]", "give either target or targets", reason="TARGET_INVALID")
    if "target" in values:
        return (_target(values.pop("target"), "parameters[target]"),)
    targets = _json(values, "targets", list, limits)
    return tuple(_target(target, f"parameters[targets][{index}]") for index, target in enumerate(targets))


def _target(value: Any, place: str) -> v1.Target:
    """Return a class index, a label, or a Target in protobuf's JSON, as a message."""
    if isinstance(value, str):
        return v1.Target(class_label=value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 2**31:
            raise _invalid(place, f"{value} is the index of no class", reason="TARGET_INVALID")
        return v1.Target(class_index=value)
    if isinstance(value, dict):
        try:
            return json_format.ParseDict(value, v1.Target(), max_recursion_depth=10)
        except json_format.ParseError as error:
            raise _invalid(
                place, f"no whylight.v1.Target: {str(error).splitlines()[0][:256]}", reason="TARGET_INVALID"
            ) from None
    raise _invalid(
        place,
        f"a target is the index of a class, its label, or a whylight.v1.Target in JSON, not {_show(value)}",
        reason="TARGET_INVALID",
    )


def _json(values: dict[str, Value], name: str, kind: type, limits: Limits) -> Any:
    text = take(values, name, str, "JSON in a string", "parameters")
    if text is None:
        return kind()
    place = f"parameters[{name}]"
    if len(text) > limits.options_bytes:
        raise InvalidInput(
            f"{len(text)} characters, more than the {limits.options_bytes} that are allowed",
            reason="OPTIONS_TOO_LARGE",
            field=place,
        )
    try:
        value = json.loads(text)
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # an escape may stand for half a character, which no message holds
    except (ValueError, RecursionError) as error:
        raise _invalid(place, f"no JSON: {str(error)[:256]}") from None
    if not isinstance(value, kind):
        raise _invalid(place, f"{name} is a JSON {'object' if kind is dict else 'array'}, not {_show(value)}")
    return value


def _integer(values: dict[str, Value], name: str, most: int) -> int | None:
    value: int | None = take(values, name, int, "an integer", "parameters")
    if value is not None and not 0 <= value <= most:
        raise _invalid(f"parameters[{name}]", f"{value} is not between 0 and {most}")
    return value


def _text(values: dict[str, Value], name: str) -> str:
    return take(values, name, str, "a string", "parameters") or ""


def _flag(values: dict[str, Value], name: str) -> bool:
    return bool(take(values, name, bool, "true or false", "parameters"))


def _show(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return f"{type(value).__name__} {str(value)[:64]!r}"


def _invalid(place: str, message: str, *, reason: str = "OPTION_INVALID") -> InvalidInput:
    return InvalidInput(message, reason=reason, field=place)
