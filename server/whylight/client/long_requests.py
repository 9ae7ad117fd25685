"""What a caller asks of a synthesis or an inspection, as it is written in Python, made into messages; sends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whylight import wire
from whylight.client.pictures import Image, read_picture
from whylight.client.requests import Targets, targets_of
from whylight.errors import InvalidInput
from whylight.outputs import Output
from whylight.priority import Priority, as_priority
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import integer


@dataclass(frozen=True)
class LongRequest:
    """One request, as `whylight.Client.synthesize` and `inspect` take it."""

    method: str
    target: Targets = None
    pictures: Image | Sequence[Image] = ()
    model: str = ""
    options: Mapping[str, Any] | None = None
    seed: int | None = None
    progress_interval: float | None = None
    priority: Priority | str = Priority.INTERACTIVE


def build_synthesis(
    request: LongRequest,
    *,
    size: tuple[int, int] | None,
    outputs: Sequence[Output] | None,
    preview_interval: int,
    top_predictions: int,
    max_bytes: int,
) -> pb.SynthesizeRequest:
    """Return a request for a synthesis as a message; `size` is (height, width). Reads the files that it names.

    Raises:
        InvalidInput: with the path of the field that cannot be sent, or the message is too large.
    """
    message = pb.SynthesizeRequest(
        outputs=[wire.output_to_proto(output) for output in outputs or ()],
        preview_interval=_count(preview_interval, "preview_interval"),
        top_predictions=_count(top_predictions, "top_predictions"),
    )
    if size is not None:
        message.size.CopyFrom(pb.Size(width=_count(size[1], "size"), height=_count(size[0], "size")))
    _fill(message, request, max_bytes)
    return message


def build_inspection(request: LongRequest, *, max_bytes: int) -> pb.InspectRequest:
    """Return a request for an inspection as a message. Reads the files that it names.

    Raises:
        InvalidInput: with the path of the field that cannot be sent, or the message is too large.
    """
    message = pb.InspectRequest()
    _fill(message, request, max_bytes)
    return message


def _fill(message: pb.SynthesizeRequest | pb.InspectRequest, request: LongRequest, max_bytes: int) -> None:
    message.model = request.model
    message.priority = wire.priority_to_proto(as_priority(request.priority))
    message.method.name = request.method
    message.method.options.CopyFrom(wire.dict_to_struct(request.options or {}, "method.options"))
    if request.seed is not None:
        message.method.seed = integer(request.seed, 64, signed=False, reason="REQUEST_INVALID", field="method.seed")
    message.targets.extend(wire.target_to_proto(target) for target in targets_of(request.target, "targets"))
    pictures: Any = request.pictures if isinstance(request.pictures, list | tuple) else [request.pictures]
    for index, picture in enumerate(pictures):
        message.inputs.append(wire.input_to_proto(read_picture(picture, f"inputs[{index}]")))
    message.progress.CopyFrom(wire.progress_spec_to_proto(request.progress_interval, running_maps=False))
    if (size := message.ByteSize()) > max_bytes:
        raise InvalidInput(
            f"the request has {size} bytes, more than the {max_bytes} that a message may have: send smaller pictures",
            reason="REQUEST_TOO_LARGE",
            field="inputs",
        )


def _count(value: int, field: str) -> int:
    return integer(value, 32, signed=False, reason="REQUEST_INVALID", field=field)
