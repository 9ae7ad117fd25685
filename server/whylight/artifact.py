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


Artifact: TypeAlias = Map | Picture | Boxes
