"""What a caller may ask to have made of a map: numbers, pictures, boxes, masks; knows neither how nor torch."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from whylight.errors import InvalidInput


class Canvas(enum.Enum):
    """The frame that an artifact is drawn in."""

    NATIVE = "native"  # the map's own resolution
    INPUT = "input"  # what the model saw, after resize and crop
    ORIGINAL = "original"  # the whole picture that the caller gave


class PictureStyle(enum.Enum):
    """How a picture is drawn."""

    OVERLAY = "overlay"
    MAP = "map"


class PictureFormat(enum.Enum):
    """The file format of a picture."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        """Return the media type, such as ``image/png``."""
        return f"image/{self.value}"


@dataclass(frozen=True)
class MapOutput:
    """The map as an array `[H, W]` of `dtype`: float32, float16, or uint8 (always normalised, 0 to 255)."""

    name: str = "map"
    canvas: Canvas = Canvas.NATIVE
    dtype: str = "float32"
    normalised: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16", "uint8"):
            raise _invalid("map.dtype", f"{self.dtype!r} is none of float32, float16, uint8")


@dataclass(frozen=True)
class PictureOutput:
    """The map as an encoded picture. `colour_map` is a matplotlib name; empty means turbo, or bwr for signed maps.

    What lies above the `clip_percentile` of the map, by magnitude in a signed one, is drawn as if it lay just there. In
    maps that are as fine as pixels (saliency and its like) a few outshine all others, which 99 or so brings out. 100
    clips nothing. The numbers of maps, boxes and masks stay as they are.
    """

    name: str = "picture"
    format: PictureFormat = PictureFormat.PNG
    style: PictureStyle = PictureStyle.OVERLAY
    colour_map: str = ""
    opacity: float = 0.5
    canvas: Canvas = Canvas.INPUT
    quality: int = 90
    clip_percentile: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.clip_percentile <= 100:
            raise _invalid("picture.clip_percentile", f"{self.clip_percentile} is not above 0 and at most 100")
        if not 0 <= self.opacity <= 1:
            raise _invalid("picture.opacity", f"{self.opacity} is not between 0 and 1")
        if not 1 <= self.quality <= 100:
            raise _invalid("picture.quality", f"{self.quality} is not between 1 and 100")
        if self.canvas is Canvas.NATIVE:
            raise _invalid("picture.canvas", "a picture is drawn on the input or on the original, not at native size")


@dataclass(frozen=True)
class BoxesOutput:
    """Boxes around the largest connected parts above `threshold` times the maximum (Grad-CAM 0.15, CAM 0.20).

    They are found in the normalised map at the size of the model's input.
    """

    name: str = "boxes"
    threshold: float = 0.15
    limit: int = 1
    canvas: Canvas = Canvas.ORIGINAL

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise _invalid("boxes.threshold", f"{self.threshold} is not between 0 and 1")
        if not 1 <= self.limit <= 100:
            raise _invalid("boxes.limit", f"{self.limit} is not between 1 and 100")
        if self.canvas is Canvas.NATIVE:
            raise _invalid("boxes.canvas", "boxes count in pixels of the input or of the original")


@dataclass(frozen=True)
class MaskOutput:
    """The largest connected part above `threshold` times the maximum, as an array `[H, W]` of uint8: 1 inside, else 0.

    It is the part that the first of `BoxesOutput` is drawn around; a map that is nowhere above 0 has none.
    """

    name: str = "mask"
    threshold: float = 0.15
    canvas: Canvas = Canvas.ORIGINAL

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise _invalid("mask.threshold", f"{self.threshold} is not between 0 and 1")
        if self.canvas is Canvas.NATIVE:
            raise _invalid("mask.canvas", "a mask has the size of the input or of the original")


Output: TypeAlias = MapOutput | PictureOutput | BoxesOutput | MaskOutput


def check_outputs(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    """Return the outputs, or one map when there are none.

    Raises:
        InvalidInput: two outputs have one name.
    """
    outputs = outputs or (MapOutput(),)
    names = [output.name for output in outputs]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput(
                f"the name {name!r} is taken by outputs[{names.index(name)}]",
                reason="OUTPUT_INVALID",
                field=f"outputs[{index}].name",
            )
    return outputs


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="OUTPUT_INVALID", field=field)
