"""The output tensors of an explanation: what they are called, and what is asked of a worker for each; makes none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whylight.errors import InvalidInput
from whylight.limits import Limits
from whylight.open_inference.messages import ModelInferRequest
from whylight.open_inference.parameters import Value, read_values, refuse_unknown, take
from whylight.v1 import explanation_pb2 as v1

MAP = "MAP"
OVERLAY = "OVERLAY"
HEATMAP = "HEATMAP"
MASK = "MASK"
BOXES = "BOXES"
TARGET_INDEX = "TARGET_INDEX"
TARGET_LABEL = "TARGET_LABEL"
TARGET_SCORE = "TARGET_SCORE"
PREDICTED_INDEX = "PREDICTED_INDEX"
PREDICTED_LABEL = "PREDICTED_LABEL"
PREDICTED_SCORE = "PREDICTED_SCORE"
PREDICTED_PROBABILITY = "PREDICTED_PROBABILITY"
EXPLANATION = "EXPLANATION"

ARTIFACTS: Mapping[str, str] = {MAP: "map", OVERLAY: "picture", HEATMAP: "heatmap", MASK: "mask", BOXES: "boxes"}
"""Names of the artifacts that tensors are made of. A map is called as in a native call that names no outputs, so that
such calls share batches."""

DEFAULTS = (
    MAP,
    TARGET_INDEX,
    TARGET_LABEL,
    TARGET_SCORE,
    PREDICTED_INDEX,
    PREDICTED_LABEL,
    PREDICTED_SCORE,
    PREDICTED_PROBABILITY,
)
"""What a request gets that names no outputs: all that costs next to nothing. Pictures are drawn when asked for."""

NAMES = (*DEFAULTS, OVERLAY, HEATMAP, MASK, BOXES, EXPLANATION)

MAP_TYPES: Mapping[str, v1.DataType] = {
    "FP32": v1.DATA_TYPE_FLOAT32,
    "FP16": v1.DATA_TYPE_FLOAT16,
    "UINT8": v1.DATA_TYPE_UINT8,
}
_CANVASES = {"native": v1.CANVAS_NATIVE, "input": v1.CANVAS_INPUT, "original": v1.CANVAS_ORIGINAL}
_FORMATS = {"png": v1.PICTURE_FORMAT_PNG, "jpeg": v1.PICTURE_FORMAT_JPEG, "webp": v1.PICTURE_FORMAT_WEBP}


@dataclass(frozen=True)
class Wanted:
    """The tensors that a request wants, in its order, and what is asked of a worker to make them of.

    `sources` names, for each of `specs`, the tensor that it is for.
    """

    names: tuple[str, ...] = DEFAULTS
    specs: tuple[v1.OutputSpec, ...] = ()
    sources: tuple[str, ...] = ()
    box_limit: int = 1
    map_type: str = "FP32"

    @property
    def wordy(self) -> bool:
        """Whether much of the answer is JSON, which takes long to write."""
        return EXPLANATION in self.names


def read_outputs(messages: Sequence[ModelInferRequest.InferRequestedOutputTensor], limits: Limits) -> Wanted:
    """Return what a request wants.

    Raises:
        InvalidInput: a name or a parameter is unknown, comes twice, or is out of range (OUTPUT_INVALID,
            TOO_MANY_OUTPUTS, OPTION_INVALID).
    """
    if not messages:
        return Wanted()
    if len(messages) > limits.outputs:
        raise InvalidInput(
            f"{len(messages)} outputs, more than the {limits.outputs} that are allowed",
            reason="TOO_MANY_OUTPUTS",
            field="outputs",
        )
    names: list[str] = []
    specs: dict[str, v1.OutputSpec] = {}
    for index, message in enumerate(messages):
        place = f"outputs[{index}]"
        if message.name not in NAMES:
            raise _invalid(f"{place}.name", f"there is no output {message.name[:256]!r}; there are {', '.join(NAMES)}")
        if message.name in names:
            raise _invalid(f"{place}.name", f"{message.name} is asked for twice")
        names.append(message.name)
        values = read_values(message.parameters, f"{place}.parameters")
        known: tuple[str, ...] = ()
        if take(values, "binary_data", bool, "true or false", f"{place}.parameters") is False:
            raise _invalid(f"{place}.parameters[binary_data]", "answers are always raw, never typed contents")
        if message.name in _READERS:
            known, read = _READERS[message.name]
            specs[message.name] = read(values, f"{place}.parameters")
            specs[message.name].name = ARTIFACTS[message.name]
        refuse_unknown(values, f"{place}.parameters", known)
    wanted_map = specs.get(MAP, v1.OutputSpec()).map.dtype
    return Wanted(
        names=tuple(names),
        specs=tuple(specs.values()),
        sources=tuple(specs),
        box_limit=specs[BOXES].boxes.limit or 1 if BOXES in specs else 1,
        map_type=next((name for name, number in MAP_TYPES.items() if number == wanted_map), "FP32"),
    )


def _map(values: dict[str, Value], place: str) -> v1.OutputSpec:
    return v1.OutputSpec(
        map=v1.MapOutput(
            canvas=_word(values, "canvas", _CANVASES, place) or v1.CANVAS_UNSPECIFIED,
            dtype=_word(values, "datatype", MAP_TYPES, place) or v1.DATA_TYPE_UNSPECIFIED,
            normalised=bool(take(values, "normalised", bool, "true or false", place)),
        )
    )


def _picture(style: v1.PictureStyle) -> Callable[[dict[str, Value], str], v1.OutputSpec]:
    def read(values: dict[str, Value], place: str) -> v1.OutputSpec:
        picture = v1.PictureOutput(
            style=style,
            format=_word(values, "format", _FORMATS, place) or v1.PICTURE_FORMAT_UNSPECIFIED,
            canvas=_word(values, "canvas", _CANVASES, place) or v1.CANVAS_UNSPECIFIED,
            colour_map=take(values, "colour_map", str, "the name of a colour map", place) or "",
            quality=_count(values, "quality", place),
        )
        _set_decimal(picture, "opacity", values, place)
        _set_decimal(picture, "clip_percentile", values, place)
        return v1.OutputSpec(picture=picture)

    return read


def _mask(values: dict[str, Value], place: str) -> v1.OutputSpec:
    mask = v1.MaskOutput(canvas=_word(values, "canvas", _CANVASES, place) or v1.CANVAS_UNSPECIFIED)
    _set_decimal(mask, "threshold", values, place)
    return v1.OutputSpec(mask=mask)


def _boxes(values: dict[str, Value], place: str) -> v1.OutputSpec:
    boxes = v1.BoxesOutput(
        canvas=_word(values, "canvas", _CANVASES, place) or v1.CANVAS_UNSPECIFIED, limit=_count(values, "limit", place)
    )
    _set_decimal(boxes, "threshold", values, place)
    return v1.OutputSpec(boxes=boxes)


_OF_PICTURES = ("canvas", "clip_percentile", "colour_map", "format", "opacity", "quality")
_READERS: Mapping[str, tuple[tuple[str, ...], Callable[[dict[str, Value], str], v1.OutputSpec]]] = {
    MAP: (("canvas", "datatype", "normalised"), _map),
    OVERLAY: (_OF_PICTURES, _picture(v1.PICTURE_STYLE_OVERLAY)),
    HEATMAP: (_OF_PICTURES, _picture(v1.PICTURE_STYLE_MAP)),
    MASK: (("canvas", "threshold"), _mask),
    BOXES: (("canvas", "limit", "threshold"), _boxes),
}
"""The parameters of each tensor that is made of an artifact, and what reads them. Their ranges are native calls'."""


def _word(values: dict[str, Value], name: str, words: Mapping[str, Any], place: str) -> Any:
    what = "one of " + ", ".join(words)
    word = take(values, name, str, what, place)
    if word is not None and word not in words:
        raise _invalid(f"{place}[{name}]", f"{name} is {what}, not {word[:256]!r}")
    return None if word is None else words[word]


def _count(values: dict[str, Value], name: str, place: str) -> int:
    count: int | None = take(values, name, int, "an integer", place)
    if count is None:
        return 0
    if not 1 <= count <= 100:
        raise _invalid(f"{place}[{name}]", f"{count} is not between 1 and 100")
    return count


def _set_decimal(message: Any, name: str, values: dict[str, Value], place: str) -> None:
    """Set a field that tells 0 from nothing. A text is read as a number: some clients have parameters for no other."""
    value = take(values, name, (int, float, str), "a number", place)
    if value is None:
        return
    try:
        setattr(message, name, float(value))
    except ValueError:
        raise _invalid(f"{place}[{name}]", f"{name} is a number, not {value[:256]!r}") from None


def _invalid(place: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="OUTPUT_INVALID", field=place)
