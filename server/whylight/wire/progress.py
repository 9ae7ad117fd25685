"""Progress and the wish to be told of it, as messages and in our words; knows not how either travels."""

from __future__ import annotations

from whylight.errors import InternalError, InvalidInput
from whylight.progress import Progress
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import duration_to_seconds, path, seconds_to_duration
from whylight.wire.tensors import tensor_to_array

MIN_INTERVAL = 0.25
"""Seconds between two messages about one input, when the request does not say."""


def min_interval_from_proto(spec: pb.ProgressSpec, field: str = "progress") -> float:
    """Return the least number of seconds between two messages about one input.

    Raises:
        InvalidInput: it is below 0.
    """
    if not spec.HasField("min_interval"):
        return MIN_INTERVAL
    seconds = duration_to_seconds(spec.min_interval)
    if seconds < 0:
        raise InvalidInput(f"{seconds:g} seconds are no interval", field=path(field, "min_interval"))
    return seconds


def progress_spec_to_proto(min_interval: float | None, running_maps: bool) -> pb.ProgressSpec:
    """Return a wish to be told of progress; `min_interval` in seconds, None for what the server thinks best.

    Raises:
        InvalidInput: the interval is below 0, or no number of seconds.
    """
    spec = pb.ProgressSpec(running_maps=running_maps)
    if min_interval is not None:
        try:
            spec.min_interval.CopyFrom(seconds_to_duration(min_interval))
        except ValueError as error:
            raise InvalidInput(str(error), field="progress.min_interval") from None
        min_interval_from_proto(spec)
    return spec


def progress_from_proto(message: pb.ExplainProgress) -> Progress:
    """Return a message as the progress that it tells of. Arrays are read-only views of the message's bytes.

    Raises:
        InternalError: it is not one that this version can read (RESPONSE_INVALID).
    """
    try:
        maps = tuple(tensor_to_array(tensor) for tensor in message.maps)
    except InvalidInput as error:
        raise InternalError(f"progress cannot be read: {error.message}", reason="RESPONSE_INVALID") from error
    return Progress(
        message.input_index, message.method, message.method_index, int(message.done), int(message.total), maps
    )
