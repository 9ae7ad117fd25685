"""Scalars that take more than a sum: over a mask, of a detector's box, of the likeness to a reference; knows no model.

Each is made into a function of one input's tensor, differentiable, of the tensor's own type and device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from whylight.errors import InvalidInput

OVERLAP = 0.5
"""Intersection over union from which on a prediction is where the box is."""


def masked_sum(class_index: int, mask: npt.NDArray[Any]) -> Callable[[Tensor], Tensor]:
    """Return the sum of a class of `[classes, H, W]` over the elements at whose centre `mask` `[h, w]` is not 0."""
    marked = torch.from_numpy(mask != 0)

    def function(sample: Tensor) -> Tensor:
        height, width = sample.shape[1:]
        inside = marked[_nearest(height, len(marked))][:, _nearest(width, marked.shape[1])].to(sample.device)
        if not bool(inside.any()):
            raise InvalidInput(
                f"the mask marks no element of the output of {height} x {width}",
                reason="TARGET_INVALID",
                field="target",
            )
        return (sample[class_index] * inside).sum()

    return function


def best_overlapping(
    box: Sequence[float], class_index: int | None, *, listed: bool
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], None]]:
    """Return the best score among detections `[K, ...]` that overlap `box`, and what raises if there is none.

    Detections have corners (left, top, right, bottom) as `box` has, and then a score for each class; or, `listed`, one
    score and the index of its class. The best of none is 0.
    """

    def scores(sample: Tensor) -> tuple[Tensor, Tensor]:
        if listed:
            of_class = sample[:, 5] >= 0 if class_index is None else sample[:, 5] == class_index
            return sample[:, 4], of_class
        score = sample[:, 4:].amax(dim=1) if class_index is None else sample[:, 4 + class_index]
        return score, torch.ones_like(score, dtype=torch.bool)

    def best(sample: Tensor) -> Tensor:
        score, of_class = scores(sample)
        chosen = of_class & (overlaps(sample[:, :4].detach(), box) >= OVERLAP)
        # The first of equal ones alone, so that the derivative is that of one detection.
        return (
            score[score.detach().masked_fill(~chosen, -torch.inf).argmax()] if bool(chosen.any()) else 0 * score.sum()
        )

    def require(sample: Tensor) -> None:
        _, of_class = scores(sample)
        found = overlaps(sample[:, :4], box)[of_class]
        most = float(found.max()) if len(found) else 0.0
        if most < OVERLAP:
            of = "" if class_index is None else f" of class {class_index}"
            raise InvalidInput(
                f"no detection{of} overlaps the box by {OVERLAP}; the best of {len(found)} by {most:.2f}",
                reason="TARGET_INVALID",
                field="target",
            )

    return best, require


def overlaps(boxes: Tensor, box: Sequence[float]) -> Tensor:
    """Return the intersection over union of each of `boxes` `[K, 4]` with `box`, `[K]`; all are corners."""
    left, top, right, bottom = boxes.unbind(1)
    width = right.clamp(max=box[2]) - left.clamp(min=box[0])
    height = bottom.clamp(max=box[3]) - top.clamp(min=box[1])
    both = width.clamp(min=0) * height.clamp(min=0)
    own = (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
    return both / (own + (box[2] - box[0]) * (box[3] - box[1]) - both)


def similarity(embedding: npt.NDArray[Any], shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return the cosine of the angle between a tensor, flattened, and `embedding` `[E]`, 0 for a tensor of zeros.

    Raises:
        InvalidInput: a tensor of `shape` is of another length (reason TARGET_INVALID).
    """
    _same_length(torch.Size(shape).numel(), embedding)
    direction = torch.from_numpy(embedding.copy())

    def function(sample: Tensor) -> Tensor:
        _same_length(sample.numel(), embedding)
        return torch.cosine_similarity(sample.flatten(), direction.to(sample), dim=0)

    return function


def _same_length(length: int, embedding: npt.NDArray[Any]) -> None:
    if length != len(embedding):
        raise InvalidInput(
            f"an embedding of {len(embedding)} numbers; what is compared has {length}",
            reason="TARGET_INVALID",
            field="target",
        )


def _nearest(length: int, given: int) -> Tensor:
    """Return, for each of `length` elements, the one of `given` that lies at its centre."""
    return ((2 * torch.arange(length) + 1) * given) // (2 * length)
