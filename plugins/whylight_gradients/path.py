"""Mean gradients along straight paths between images; knows neither what the ends mean nor how they were drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import whylight
from whylight_gradients.quadrature import Node

if TYPE_CHECKING:
    import torch

Ends = Callable[[int], "tuple[torch.Tensor, torch.Tensor]"]
"""From the number of a copy to both ends of its path, `[N, C, H, W]` each."""


def integrated(
    subject: whylight.Subject, batch: whylight.Batch, count: int, ends: Ends, nodes: Sequence[Node]
) -> Iterator[torch.Tensor]:
    """Yield for each of `count` copies, step by step, the sum so far of the gradients on its path, `[M, C, H, W]`.

    There are ``len(nodes)`` sums for each copy; the last is the mean gradient on the path. The same tensor is yielded
    each time within a copy, and written over.
    """
    import torch

    latest: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def at(index: int) -> torch.Tensor:
        copy, step = divmod(index, len(nodes))
        if copy not in latest:  # Copies come in order: one of them is kept.
            start, end = ends(copy)
            latest.clear()
            latest[copy] = start, end - start
        start, way = latest[copy]
        return start + nodes[step].place * way

    total = torch.empty(0)
    for given in subject.altered_gradients(batch, count * len(nodes), at):
        step = given.index % len(nodes)
        if step == 0:
            total = torch.zeros_like(given.gradients)
        total = total.add_(given.gradients, alpha=nodes[step].weight)
        yield total


def scores_at(subject: whylight.Subject, batch: whylight.Batch, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the value of each target, `[M]`, at each of several images of every input `[N, C, H, W]`."""
    return list(subject.altered_scores(batch, len(images), lambda index: images[index]))


def completeness(maps: torch.Tensor, scores: torch.Tensor, at_baseline: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the checks of maps that should sum to a difference of scores: that difference, and what is amiss.

    Both `[M]`, in float64: "score_difference" is f(x) - f(x'), "completeness_residual" is the map's sum minus that.
    """
    import torch

    difference = scores.double() - at_baseline.double()
    sums = torch.stack([one.double().sum() for one in maps])
    return {"completeness_residual": sums - difference, "score_difference": difference}
