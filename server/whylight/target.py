"""The scalar that is explained: what a caller may point at in a model's answer; knows no torch and no model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from whylight.errors import InvalidInput
from whylight.frozen_array import FrozenArray

if TYPE_CHECKING:
    import numpy.typing as npt

MASK_ELEMENTS = 1 << 20
"""Elements of a mask at most: 1024 x 1024."""

EMBEDDING_ELEMENTS = 1 << 20
"""Numbers of an embedding at most."""


@dataclass(frozen=True)
class ClassIndex:
    """The score of a class, by its index in the model's output vector."""

    index: int


@dataclass(frozen=True)
class ClassLabel:
    """The score of a class, by its label in the model's label list."""

    label: str


@dataclass(frozen=True)
class Rank:
    """The score of the k-th prediction of each input: 0 is the class with the highest score."""

    rank: int = 0


@dataclass(frozen=True)
class OutputIndex:
    """Any one element of the model's output, by its indices after the batch dimension."""

    indices: tuple[int, ...]


@dataclass(frozen=True)
class Neuron:
    """A unit of a layer; without a position, the mean of its channel over all positions."""

    layer: str
    channel: int
    position: tuple[int, ...] = ()


@dataclass(frozen=True)
class Latent:
    """A latent variable of a model that has them."""

    index: int


@dataclass(frozen=True)
class Contrast:
    """The value of one target less that of another: why this class rather than that one.

    Both are a class, a label, a rank or an output index; whole numbers and texts are read as `as_target` does.

    Raises:
        InvalidInput: one of them is something else (reason TARGET_INVALID).
    """

    positive: ClassIndex | ClassLabel | Rank | OutputIndex
    negative: ClassIndex | ClassLabel | Rank | OutputIndex

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            target = as_target(getattr(self, name))
            if not isinstance(target, COMPARABLE):
                raise _invalid(
                    f"a contrast is of classes, labels, ranks or output indices, not {type(target).__name__}",
                    f"contrast.{name}",
                )
            object.__setattr__(self, name, target)


@dataclass(frozen=True)
class Region:
    """The summed score of a class over a part of a dense output `[classes, H, W]`: a rectangle or a mask.

    Edges are fractions of the output's width and height, which are those of the model's input. A mask `[h, w]` of any
    resolution lies over the same frame; an element of the output belongs to the region where the mask's element at its
    centre is not 0. Arrays of numbers or truth values are taken for masks.

    Raises:
        InvalidInput: the edges are no rectangle, the mask is empty, too large, or beside a rectangle (TARGET_INVALID).
    """

    class_index: int
    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    mask: FrozenArray | None = None

    def __post_init__(self) -> None:
        _check_box((self.left, self.top, self.right, self.bottom), "region")
        if self.mask is not None:
            import numpy as np

            given = self.mask.numpy() if isinstance(self.mask, FrozenArray) else np.asarray(self.mask)
            if given.ndim != 2 or not 0 < given.size <= MASK_ELEMENTS:
                raise _invalid(
                    f"a mask is [height, width] of 1 to {MASK_ELEMENTS} elements, not {list(given.shape)}",
                    "region.mask.shape",
                )
            if given.dtype.kind not in "buif" or not given.any():
                raise _invalid("nothing is marked: every element of the mask is 0", "region.mask")
            if (self.left, self.top, self.right, self.bottom) != (0.0, 0.0, 1.0, 1.0):
                raise _invalid("give either a mask or edges", "region.mask")
            object.__setattr__(self, "mask", FrozenArray.of((given != 0).astype(np.uint8)))


@dataclass(frozen=True)
class Detection:
    """The best score among a detector's predictions that are where a box is: those that overlap it by IoU >= 0.5.

    The box is in fractions of the model's input. Without a class, the best score of any class counts. Which predictions
    there are is as the run gives them (non-maximum suppression included); the derivative is that of their scores.

    Raises:
        InvalidInput: the edges are no rectangle (reason TARGET_INVALID).
    """

    class_index: int | None
    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        _check_box((self.left, self.top, self.right, self.bottom), "detection")


@dataclass(frozen=True)
class Similarity:
    """The cosine similarity between what the model makes of the input and of a reference, -1 to 1.

    The reference is an image (a path, a file's bytes, or an array as inputs are given: uint8 `[H, W, 3]`, or floats
    `[C, H, W]` normalised), which the same model is asked about, or an embedding. Compared are the model's outputs, or
    with `layer` the outputs of a layer, each flattened to a vector.

    Raises:
        InvalidInput: there is not exactly one reference, or it cannot be read (reason TARGET_INVALID).
    """

    image: bytes | FrozenArray | None = None
    embedding: FrozenArray | None = None
    layer: str = ""

    def __post_init__(self) -> None:
        if (self.image is None) == (self.embedding is None):
            raise _invalid("give either an image or an embedding", "similarity")
        if self.embedding is not None:
            object.__setattr__(self, "embedding", _embedding(self.embedding))
        image: Any = self.image
        if isinstance(image, str | os.PathLike):
            try:
                object.__setattr__(self, "image", Path(image).read_bytes())
            except OSError as error:
                raise InvalidInput(
                    f"{os.fspath(image)}: {error.strerror}", reason="IMAGE_UNREADABLE", field="similarity.image"
                ) from None
        elif image is not None and not isinstance(image, bytes | FrozenArray):
            import numpy as np

            if not isinstance(image, np.ndarray):
                raise _invalid(
                    f"a reference is a path, bytes or an array, not {type(image).__name__}", "similarity.image"
                )
            object.__setattr__(self, "image", FrozenArray.of(image))


@dataclass(frozen=True)
class Objective:
    """Any scalar of the model's output: a differentiable function of one input's output tensor. Never on the wire.

    Methods explain it in place of a caller's target when their definition changes the scalar; callers in process may
    ask for it too.
    """

    function: Callable[[Any], Any]
    label: str = ""


Target: TypeAlias = (
    ClassIndex
    | ClassLabel
    | Rank
    | OutputIndex
    | Neuron
    | Latent
    | Contrast
    | Region
    | Detection
    | Similarity
    | Objective
)
TOP_PREDICTION = Rank(0)
COMPARABLE = (ClassIndex, ClassLabel, Rank, OutputIndex)
"""What a contrast may be of."""


def as_target(value: Target | int | str | None) -> Target:
    """Read a target as people write it: an index, a label, a target, or nothing for the top prediction."""
    if value is None:
        return TOP_PREDICTION
    if isinstance(value, str):
        return ClassLabel(value)
    if isinstance(value, int):
        return ClassIndex(value)
    return value


@dataclass(frozen=True)
class ResolvedTarget:
    """What a target turned out to be for one input: the target made definite, its label if any, and its value."""

    target: Target
    label: str
    score: float


def size_of(target: Target) -> int:
    """Return how many bytes the mask or the embedding of a target takes where it travels; others take next to none."""
    if isinstance(target, Region) and target.mask is not None:
        return len(target.mask.data)
    if isinstance(target, Similarity) and target.embedding is not None:
        return len(target.embedding.data)
    return 0


def _check_box(edges: tuple[float, float, float, float], what: str) -> None:
    left, top, right, bottom = edges
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise _invalid(
            f"the edges of a {what} are fractions with 0 <= left < right <= 1 and 0 <= top < bottom <= 1", what
        )


def _embedding(given: npt.ArrayLike | Sequence[float] | FrozenArray) -> FrozenArray:
    import numpy as np

    numbers = given.numpy() if isinstance(given, FrozenArray) else np.asarray(given)
    if numbers.ndim != 1 or not 0 < numbers.size <= EMBEDDING_ELEMENTS or numbers.dtype.kind not in "iuf":
        raise _invalid(
            f"an embedding is a vector of 1 to {EMBEDDING_ELEMENTS} numbers, not {numbers.dtype} {list(numbers.shape)}",
            "similarity.embedding",
        )
    wide = numbers.astype(np.float64 if numbers.dtype == np.float64 else np.float32)
    if not np.isfinite(wide).all() or not wide.any():
        raise _invalid("an embedding has a direction: finite numbers that are not all 0", "similarity.embedding")
    return FrozenArray.of(wide)


def _invalid(message: str, field: str) -> InvalidInput:
    return InvalidInput(message, reason="TARGET_INVALID", field=field)
