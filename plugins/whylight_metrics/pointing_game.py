"""Pointing game: whether the map's maximum lies on the object; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

import whylight
from whylight_metrics.per_target import enlarged

if TYPE_CHECKING:
    from torch import Tensor

_Fraction = Annotated[float, Field(ge=0, le=1)]


class PointingGameOptions(whylight.PlainOptions):
    """Where the object is, and how near is near enough."""

    box: tuple[_Fraction, _Fraction, _Fraction, _Fraction] | None = Field(
        None,
        description="Left, upper, right and lower edge of the object's box, as fractions of what the model sees. "
        "Targets that are a region or a detection bring their own.",
    )
    tolerance: float = Field(
        15, ge=0, le=4096, description="How many pixels of the input beside the object still count as a hit."
    )

    @model_validator(mode="after")
    def _is_a_rectangle(self) -> PointingGameOptions:
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("box is left, upper, right, lower, with left < right and upper < lower")
        return self


class PointingGame(whylight.Metric):
    """Whether the strongest pixel of the map lies on the object, or within 15 pixels of it: 1 or 0; higher is better.

    The paper gives the mean over a data set, class by class: the mean over the inputs of a call. The object is where
    the option "box" says, or the region, its mask, or the detection that is the target. The strongest pixel is that of
    the map at the size of the input; of several, the first in reading order.
    """

    name = "pointing-game"
    reference = "Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016, section 4.1"
    Options = PointingGameOptions

    def measure(
        self,
        subject: whylight.Subject,
        batch: whylight.Batch,
        maps: Tensor,
        explain: whylight.Explain,
        options: PointingGameOptions,
    ) -> whylight.Measured:
        """Return 1 or 0 for each target."""
        import torch

        width = batch.inputs.shape[3]
        hits = []
        for target, map in zip(batch.targets, enlarged(maps, batch.inputs), strict=True):
            row, column = divmod(int(map.flatten().argmax()), width)
            distance = _distance(target, (row + 0.5, column + 0.5), (map.shape[0], map.shape[1]), options)
            hits.append(float(distance <= options.tolerance))
        return whylight.Measured(torch.tensor(hits, dtype=torch.float64))


def _distance(
    target: whylight.Target, point: tuple[float, float], size: tuple[int, int], options: PointingGameOptions
) -> float:
    """Return how far, in pixels of the input, a point lies from the object; 0 inside it."""
    if isinstance(target, whylight.Region) and target.mask is not None:
        return _from_mask(target.mask.numpy(), point, size)
    if isinstance(target, whylight.Region | whylight.Detection):
        return _from_box((target.left, target.top, target.right, target.bottom), point, size)
    if options.box is None:
        raise whylight.InvalidInput(
            "where is the object? give its box, or a region or a detection as the target",
            reason="OPTION_INVALID",
            field="options.box",
        )
    return _from_box(options.box, point, size)


def _from_box(box: tuple[float, float, float, float], point: tuple[float, float], size: tuple[int, int]) -> float:
    left, top, right, bottom = box
    down = max(top * size[0] - point[0], 0.0, point[0] - bottom * size[0])
    across = max(left * size[1] - point[1], 0.0, point[1] - right * size[1])
    return float((down**2 + across**2) ** 0.5)


def _from_mask(mask: object, point: tuple[float, float], size: tuple[int, int]) -> float:
    """Return the distance to the nearest cell of a mask `[h, w]` that lies over the whole input."""
    import numpy as np

    marked = np.asarray(mask) != 0
    rows, columns = np.nonzero(marked)
    high, wide = size[0] / marked.shape[0], size[1] / marked.shape[1]
    down = np.maximum.reduce([rows * high - point[0], np.zeros(len(rows)), point[0] - (rows + 1) * high])
    across = np.maximum.reduce([columns * wide - point[1], np.zeros(len(rows)), point[1] - (columns + 1) * wide])
    return float(np.sqrt(down**2 + across**2).min())
