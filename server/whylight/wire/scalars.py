"""What every conversion needs: paths, durations, integers in range, decimals; knows no message of ours."""

from __future__ import annotations

import math

import numpy as np
from google.protobuf.duration_pb2 import Duration

from whylight.errors import InvalidInput

NAME_LENGTH = 256
"""Characters in a name of anything at most."""

_NANOSECONDS = 1_000_000_000
_LONGEST = 315_576_000_000  # seconds: the bound that duration.proto sets, about 10,000 years


def path(prefix: str, name: str) -> str:
    """Return the path of the field `name` of the message at `prefix`."""
    return f"{prefix}.{name}" if prefix else name


def seconds_to_duration(seconds: float) -> Duration:
    """Return `seconds` as a Duration, to the nearest nanosecond.

    Raises:
        ValueError: not finite, or beyond what a Duration may hold.
    """
    if not math.isfinite(seconds) or abs(seconds) > _LONGEST:
        raise ValueError(f"{seconds} seconds do not fit a Duration")
    whole = math.trunc(seconds)
    nanos = round((seconds - whole) * _NANOSECONDS)
    if abs(nanos) == _NANOSECONDS:
        whole, nanos = whole + (1 if nanos > 0 else -1), 0
    return Duration(seconds=whole, nanos=nanos)


def duration_to_seconds(duration: Duration) -> float:
    """Return a Duration in seconds."""
    return duration.seconds + duration.nanos / _NANOSECONDS


def decimal(value: float) -> float:
    """Return the shortest decimal that rounds to the float32 `value`.

    That is the 0.15 that the caller wrote, not 0.15000000596: an option means the same number here and in process.
    """
    return float(str(np.float32(value)))


def integer(value: int, bits: int, *, signed: bool, reason: str, field: str) -> int:
    """Return `value` when it fits an integer of so many bits.

    Raises:
        InvalidInput: it does not.
    """
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= value <= high:
        raise InvalidInput(f"{value} is not between {low} and {high}", reason=reason, field=field)
    return int(value)
