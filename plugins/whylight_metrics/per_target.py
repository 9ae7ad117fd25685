"""A batch with a row of its own for each target, and what is asked of the model there; knows no metric."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import whylight

if TYPE_CHECKING:
    from torch import Tensor


def per_target(subject: whylight.Subject, batch: whylight.Batch) -> whylight.Batch:
    """Return a batch of M inputs with one target each, for alterations that differ from target to target.

    Ranks are those of the unaltered inputs. In the place of a class score stands the class's probability, the softmax
    of the scores; every other target keeps its value.
    """
    import torch

    targets = tuple(probability(resolved.target) for resolved in subject.resolve(batch))
    rows = torch.tensor(batch.rows, device=batch.inputs.device)
    return dataclasses.replace(
        batch,
        inputs=batch.inputs[rows],
        targets=targets,
        rows=tuple(range(len(targets))),
        seeds=tuple(batch.seeds[row] for row in batch.rows) if batch.seeds else (),
        companions=batch.companions_at(rows),
    )


def probability(target: whylight.Target) -> whylight.Target:
    """Return the probability of a class in place of its score, other targets as they are."""
    if not isinstance(target, whylight.ClassIndex):
        return target
    index = target.index

    def share(scores: Tensor) -> Tensor:
        return scores.softmax(0)[index]

    return whylight.Objective(share, "probability")


def enlarged(maps: Tensor, like: Tensor) -> Tensor:
    """Return maps `[M, h, w]` at the size and in the type of inputs `[…, H, W]`, bilinear with half-pixel centres."""
    import torch
    import torch.nn.functional as F

    size = (like.shape[-2], like.shape[-1])
    # One by one: which kernel computes a batch of one channel may depend on how many there are.
    parts = [F.interpolate(one, size, mode="bilinear") for one in torch.split(maps.to(like.dtype)[:, None], 1)]
    return torch.cat(parts)[:, 0]


def places(maps: Tensor) -> Tensor:
    """Return each pixel's place, 0 for the most relevant one, in maps `[M, H, W]`; ties in reading order."""
    import torch

    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    counted = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, counted).view(maps.shape)
