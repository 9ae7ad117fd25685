"""A detector's answer as one tensor: lists of boxes of any length made equally long; knows no target and no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from whylight.errors import InvalidInput

Boxes: TypeAlias = Literal["pixels", "fractions"]
Detections: TypeAlias = Literal["listed", "dense"]

LISTED = 6
"""Numbers of a listed detection: left, top, right, bottom as fractions of the input, score, index of the class."""

_PARTS = ("boxes", "scores", "labels")


def is_listed(raw: Any) -> bool:
    """Whether an answer is a list with the boxes, scores and labels of each input, as torchvision's detectors give."""
    return (
        isinstance(raw, list | tuple)
        and len(raw) > 0
        and all(isinstance(one, Mapping) and all(isinstance(one.get(part), Tensor) for part in _PARTS) for one in raw)
    )


def limit_of(module: nn.Module) -> int:
    """Return how many boxes a detector gives for one input at most.

    Raises:
        InvalidInput: no part of it says so.
    """
    for part in module.modules():
        limit = getattr(part, "detections_per_img", None)
        if isinstance(limit, int) and limit > 0:
            return limit
    raise InvalidInput(
        "the model gives lists of boxes of any length, and no part of it has 'detections_per_img', the most there are",
        field="output",
    )


def packed(raw: Any, limit: int, size: tuple[int, int]) -> Tensor:
    """Return listed detections as `[N, limit, 6]`, differentiable in the scores; missing ones are 0, of class -1.

    `size` is the height and width of the inputs, whose pixels the boxes count in.
    """
    height, width = size
    rows = []
    for one in raw:
        scores = one["scores"]
        frame = torch.tensor((width, height, width, height), dtype=scores.dtype, device=scores.device)
        boxes = one["boxes"].detach().to(scores.dtype) / frame
        labels = one["labels"].to(scores.dtype) + 1  # so that what is missing becomes -1
        each = torch.cat((boxes, scores[:, None], labels[:, None]), dim=1)[:limit]
        rows.append(functional.pad(each, (0, 0, 0, limit - len(each))))
    together = torch.stack(rows)
    return together - torch.tensor((0.0,) * 5 + (1.0,), dtype=together.dtype, device=together.device)


def in_fractions(output: Tensor, size: tuple[int, int]) -> Tensor:
    """Return dense detections `[N, K, 4 + classes]` with corners in fractions of inputs of `size`, from pixels."""
    height, width = size
    frame = torch.tensor((width, height, width, height), dtype=output.dtype, device=output.device)
    return torch.cat((output[..., :4] / frame, output[..., 4:]), dim=-1)
