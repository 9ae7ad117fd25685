"""The scalar that is explained: what a caller may point at in a model's answer; knows no torch and no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from whylight.errors import InvalidInput


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
class Region:
    """The summed score of a class over a rectangle of a dense output `[classes, H, W]`; edges are fractions of it."""

    class_index: int
    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise InvalidInput(
                "the edges of a region are fractions with 0 <= left < right <= 1 and 0 <= top < bottom <= 1",
                reason="TARGET_INVALID",
                field="region",
            )


@dataclass(frozen=True)
class Objective:
    """Any scalar of the model's output: a differentiable function of one input's output tensor. Never on the wire.

    Methods explain it in place of a caller's target when their definition changes the scalar; callers in process may
    ask for it too.
    """

    function: Callable[[Any], Any]
    label: str = ""


Target: TypeAlias = ClassIndex | ClassLabel | Rank | OutputIndex | Neuron | Latent | Region | Objective
TOP_PREDICTION = Rank(0)


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
