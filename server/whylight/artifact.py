"""The named pieces of an answer, as a caller holds them: arrays, pictures, boxes; knows no torch and no wire."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy.typing as npt
from PIL import Image

from whylight.outputs import Canvas


@dataclass(frozen=True)
class Map:
    """A map `[H, W]`, or activations of any shape."""

    name: str
    array: npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """An encoded picture."""

    name: str
    data: bytes = field(repr=False)
    media_type: str
    width: int
    height: int

    @classmethod
    def of(cls, name: str, pixels: npt.NDArray[Any]) -> Picture:
        """Return pixels uint8 `[H, W]` or `[H, W, 3]` as a PNG."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return cls(name, file.getvalue(), "image/png", pixels.shape[1], pixels.shape[0])

    def image(self) -> Image.Image:
        """Decode the picture."""
        return Image.open(io.BytesIO(self.data))


@dataclass(frozen=True)
class Box:
    """A box in pixels of its canvas, right and lower edge exclusive; `score` is the map's maximum in it, 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float
    score: float


@dataclass(frozen=True)
class Boxes:
    """Boxes around the parts of a map that stand out, the largest part first."""

    name: str
    boxes: tuple[Box, ...]
    canvas: Canvas = Canvas.ORIGINAL


@dataclass(frozen=True)
class Point:
    """A labelled point in the plane; the label may be empty."""

    x: float
    y: float
    label: str = ""


@dataclass(frozen=True)
class Points:
    """Points in the plane, such as the codes of a data set."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Table:
    """A table: the names of its columns, and rows with a text, a number, a truth or nothing for each of them."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | bool | None, ...], ...]


Artifact: TypeAlias = Map | Picture | Boxes | Points | Table
