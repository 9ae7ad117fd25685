"""Attributions that can be smoothed: what each gives for altered copies of the inputs; knows no noise and no mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import whylight
from whylight_gradients import baselines, quadrature
from whylight_gradients.baselines import BaselineName, baseline
from whylight_gradients.path import integrated
from whylight_gradients.reducing import Reduce

if TYPE_CHECKING:
    import torch

BaseName = Literal["saliency", "guided-backprop", "deconvnet", "input-x-gradient", "integrated-gradients"]


class BaseOptions(whylight.Options):
    """Which attribution, and what it needs to know."""

    base: BaseName = Field(
        "saliency",
        description="The method that explains each noisy copy. 'guided-backprop' and 'deconvnet' need a network with "
        "ReLU.",
    )
    reduce: Reduce | Literal["base"] = Field(
        "base",
        description="How a pixel's colour channels become one number: 'max', the largest magnitude; 'signed', their "
        "sum; 'base', as the base does by default: 'signed' for input-x-gradient and integrated-gradients, else 'max'.",
    )
    steps: int = Field(
        20, ge=2, le=2000, description="For the base integrated-gradients: gradients on the path of each copy."
    )
    rule: quadrature.Rule = Field(
        "gauss-legendre", description="For the base integrated-gradients: " + quadrature.DESCRIPTION
    )
    baseline: BaselineName = Field(
        "black",
        description="For the base integrated-gradients, where the paths begin, made from the input without noise: "
        + baselines.DESCRIPTION,
    )

    @property
    def reduction(self) -> Reduce:
        """How the channels are reduced, "base" made definite."""
        if self.reduce != "base":
            return self.reduce
        return "signed" if self.base in ("input-x-gradient", "integrated-gradients") else "max"

    @property
    def passes(self) -> int:
        """How many gradients one copy takes."""
        return self.steps if self.base == "integrated-gradients" else 1


def attributions(
    subject: whylight.Subject,
    batch: whylight.Batch,
    options: BaseOptions,
    count: int,
    copy: Callable[[int], torch.Tensor],
) -> Iterator[torch.Tensor]:
    """Yield what the base gives for each of `count` copies of the inputs, `[M, C, H, W]`, channels apart.

    ``copy(k)`` is the k-th copy of all inputs, `[N, C, H, W]`; copies are asked for in order.

    Raises:
        Unsupported: the base needs ReLU, and the model has none.
    """
    rows = list(batch.rows)
    if options.base == "integrated-gradients":
        start = baseline(subject, batch, options.baseline)
        nodes = quadrature.nodes(options.rule, options.steps)
        ends: dict[int, torch.Tensor] = {}

        def path(index: int) -> tuple[torch.Tensor, torch.Tensor]:
            ends[index] = copy(index)
            return start, ends[index]

        for position, total in enumerate(integrated(subject, batch, count, path, nodes), 1):
            if position % len(nodes) == 0:
                yield (ends.pop(position // len(nodes) - 1) - start)[rows] * total
        return
    rule = _rule(subject, options.base)
    for given in subject.altered_gradients(batch, count, copy, rule=rule):
        yield given.activations[rows] * given.gradients if options.base == "input-x-gradient" else given.gradients


def _rule(subject: whylight.Subject, base: BaseName) -> whylight.BackwardRule | None:
    rules: dict[Any, Callable[[], whylight.BackwardRule]] = {
        "guided-backprop": whylight.GuidedRelu,
        "deconvnet": whylight.DeconvnetRelu,
    }
    if base not in rules:
        return None
    if whylight.Need.RELU not in subject.model.capabilities:
        raise whylight.Unsupported(
            f"the base {base} needs a network with ReLU, and model {subject.model.name!r} has none",
            field="options.base",
        )
    return rules[base]()
