"""One term of what is minimised: a loss for each image, with its weight over time; knows no image's parameters."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

Schedule = Literal["constant", "rising", "falling"]


@dataclass(frozen=True)
class Sight:
    """What is known of some images of a batch at one step.

    `rows` says which images of the batch they are. `images` are `[R, C, H, W]`, 0 black and 1 white, RGB or grey;
    `inputs` the same as the model takes them; `output` and `layers` what the model made of them, as far as terms asked.
    """

    rows: range
    images: Tensor
    inputs: Tensor
    output: Tensor | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Term(abc.ABC):
    """A loss for each image.

    It counts `weight` times, at every `period`-th step (from the first on), by `schedule` all the time alike, rising
    from 0, or falling to 0.
    """

    weight: float = 1.0
    period: int = 1
    schedule: Schedule = "constant"

    name: ClassVar[str]
    """Under which its value is reported."""
    of_images: ClassVar[bool] = False
    """Whether it judges the images themselves, and not what the model makes of them."""

    @property
    def reads_layers(self) -> tuple[str, ...]:
        """Layers that it looks at, by their own names."""
        return ()

    @property
    def reads_output(self) -> bool:
        """Whether it looks at the model's output."""
        return False

    @abc.abstractmethod
    def loss(self, sight: Sight) -> Tensor:
        """Return the loss of each image of `sight`, `[R]`, unweighted."""

    def factor(self, step: int, steps: int) -> float:
        """Return what the loss counts at `step` (from 0) of `steps`."""
        if step % self.period:
            return 0.0
        share = step / max(steps - 1, 1)
        return self.weight * {"constant": 1.0, "rising": share, "falling": 1.0 - share}[self.schedule]


def per_image(values: Tensor) -> Tensor:
    """Return the sum of each image's values, `[R, ...]` to `[R]`; an image has the same bits whatever is beside it."""
    return torch.stack([image.sum() for image in values])
