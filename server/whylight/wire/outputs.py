"""Output specifications as messages and as dataclasses, with the defaults that the proto promises; draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeVar

from whylight.errors import InvalidInput
from whylight.outputs import (
    BoxesOutput,
    Canvas,
    MapOutput,
    MaskOutput,
    Output,
    PictureFormat,
    PictureOutput,
    PictureStyle,
    check_outputs,
)
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import NAME_LENGTH, decimal, integer

CANVASES: dict[pb.Canvas, Canvas] = {
    pb.CANVAS_NATIVE: Canvas.NATIVE,
    pb.CANVAS_INPUT: Canvas.INPUT,
    pb.CANVAS_ORIGINAL: Canvas.ORIGINAL,
}
_STYLES: dict[pb.PictureStyle, PictureStyle] = {
    pb.PICTURE_STYLE_OVERLAY: PictureStyle.OVERLAY,
    pb.PICTURE_STYLE_MAP: PictureStyle.MAP,
}
_FORMATS: dict[pb.PictureFormat, PictureFormat] = {
    pb.PICTURE_FORMAT_PNG: PictureFormat.PNG,
    pb.PICTURE_FORMAT_JPEG: PictureFormat.JPEG,
    pb.PICTURE_FORMAT_WEBP: PictureFormat.WEBP,
}
_DTYPES: dict[pb.DataType, str] = {
    pb.DATA_TYPE_FLOAT32: "float32",
    pb.DATA_TYPE_FLOAT16: "float16",
    pb.DATA_TYPE_UINT8: "uint8",
}
_Word = TypeVar("_Word", bound=Enum | str)
_Number = TypeVar("_Number", bound=int)


def output_from_proto(message: pb.OutputSpec, field: str = "output") -> Output:
    """Return an OutputSpec as an output, its unset fields at their defaults.

    Raises:
        InvalidInput: no kind is set, an unknown enum number, a value out of range (OUTPUT_INVALID).
    """
    kind = message.WhichOneof("kind")
    if kind is None:
        raise _invalid(field, "the output asks for nothing; set one of map, picture, boxes, mask")
    for name in (message.name, message.picture.colour_map):
        if len(name) > NAME_LENGTH:
            raise _invalid(field, f"a name of {len(name)} characters; {NAME_LENGTH} are allowed")
    try:
        if kind == "map":
            return _map(message.name or "map", message.map)
        if kind == "picture":
            return _picture(message.name or "picture", message.picture)
        if kind == "mask":
            return _mask(message.name or "mask", message.mask)
        return _boxes(message.name or "boxes", message.boxes)
    except InvalidInput as error:
        raise (error.within(field) if field else error) from None


def outputs_from_proto(messages: Iterable[pb.OutputSpec], field: str = "outputs") -> tuple[Output, ...]:
    """Return the outputs of a request: each read and checked, their names unique, one map when there are none."""
    return check_outputs(
        tuple(output_from_proto(message, f"{field}[{index}]") for index, message in enumerate(messages))
    )


def output_to_proto(output: Output) -> pb.OutputSpec:
    """Return an output as a message."""
    match output:
        case MapOutput():
            return pb.OutputSpec(
                name=output.name,
                map=pb.MapOutput(
                    canvas=canvas_to_proto(output.canvas),
                    dtype=_number(_DTYPES, output.dtype),
                    normalised=output.normalised,
                ),
            )
        case PictureOutput():
            return pb.OutputSpec(
                name=output.name,
                picture=pb.PictureOutput(
                    format=_number(_FORMATS, output.format),
                    style=_number(_STYLES, output.style),
                    colour_map=output.colour_map,
                    opacity=output.opacity,
                    canvas=canvas_to_proto(output.canvas),
                    quality=output.quality,
                    clip_percentile=output.clip_percentile,
                ),
            )
        case BoxesOutput():
            return pb.OutputSpec(
                name=output.name,
                boxes=pb.BoxesOutput(
                    threshold=output.threshold,
                    limit=integer(output.limit, 32, signed=False, reason="OUTPUT_INVALID", field="boxes.limit"),
                    canvas=canvas_to_proto(output.canvas),
                ),
            )

        case MaskOutput():
            return pb.OutputSpec(
                name=output.name,
                mask=pb.MaskOutput(threshold=output.threshold, canvas=canvas_to_proto(output.canvas)),
            )


def canvas_to_proto(canvas: Canvas) -> pb.Canvas:
    """Return a canvas as its enum number."""
    return _number(CANVASES, canvas)


def _map(name: str, message: pb.MapOutput) -> MapOutput:
    return MapOutput(
        name,
        _word(CANVASES, message.canvas, Canvas.NATIVE, "map.canvas"),
        _word(_DTYPES, message.dtype, "float32", "map.dtype"),
        message.normalised,
    )


def _picture(name: str, message: pb.PictureOutput) -> PictureOutput:
    return PictureOutput(
        name,
        _word(_FORMATS, message.format, PictureFormat.PNG, "picture.format"),
        _word(_STYLES, message.style, PictureStyle.OVERLAY, "picture.style"),
        message.colour_map,
        decimal(message.opacity) if message.HasField("opacity") else 0.5,
        _word(CANVASES, message.canvas, Canvas.INPUT, "picture.canvas"),
        message.quality or 90,
        decimal(message.clip_percentile) if message.HasField("clip_percentile") else 100.0,
    )


def _boxes(name: str, message: pb.BoxesOutput) -> BoxesOutput:
    return BoxesOutput(
        name,
        decimal(message.threshold) if message.HasField("threshold") else 0.15,
        message.limit or 1,
        _word(CANVASES, message.canvas, Canvas.ORIGINAL, "boxes.canvas"),
    )


def _mask(name: str, message: pb.MaskOutput) -> MaskOutput:
    return MaskOutput(
        name,
        decimal(message.threshold) if message.HasField("threshold") else 0.15,
        _word(CANVASES, message.canvas, Canvas.ORIGINAL, "mask.canvas"),
    )


def _word(words: Mapping[_Number, _Word], number: _Number, default: _Word, field: str) -> _Word:
    if number == 0:
        return default
    if number not in words:
        raise _invalid(field, f"{number} is not a number that this enum has")
    return words[number]


def _number(words: Mapping[_Number, _Word], word: _Word) -> _Number:
    return next(number for number, candidate in words.items() if candidate == word)


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="OUTPUT_INVALID", field=field)
