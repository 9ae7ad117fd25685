"""Regularisers as callers write them, and the terms and operators of `whylight.synthesis` that they become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

import whylight

if TYPE_CHECKING:
    from whylight.synthesis import Operator, Term

Schedule: TypeAlias = Literal["constant", "rising", "falling"]


class _Weighted(whylight.PlainOptions):
    weight: float = Field(1.0, ge=0, description="How much it counts beside the objective.")
    period: int = Field(1, ge=1, description="It counts at every period-th step.")
    schedule: Schedule = Field(
        "constant", description="Its weight over the steps: constant, rising from 0, falling to 0."
    )


class L2Penalty(_Weighted):
    """Mean squared distance from a grey."""

    kind: Literal["l2"]
    centre: float = Field(0.5, ge=0, le=1, description="The grey: 0 is black, 1 is white.")


class L1Penalty(_Weighted):
    """Mean distance from a grey: ink on paper."""

    kind: Literal["l1"]
    centre: float = Field(0.0, ge=0, le=1, description="The colour of the paper: 0 is black, 1 is white.")


class TotalVariationPenalty(_Weighted):
    """Roughness."""

    kind: Literal["total-variation"]
    beta: float = Field(2.0, ge=1, le=16, description="Power of the difference of neighbours.")


class Blur(whylight.PlainOptions):
    """Gaussian blur of the image between steps."""

    kind: Literal["blur"]
    sigma: float = Field(0.5, gt=0, le=16, description="Deviation of the Gaussian, in pixels.")
    period: int = Field(4, ge=1, description="It is applied behind every period-th step.")


class _Clip(whylight.PlainOptions):
    share: float = Field(0.1, ge=0, lt=1, description="Share of the pixels that are blanked.")
    blank: float = Field(0.5, ge=0, le=1, description="What they become: 0 is black, 1 is white.")
    period: int = Field(8, ge=1, description="It is applied behind every period-th step.")


class NormClip(_Clip):
    """Blanks the pixels of the smallest norm."""

    kind: Literal["clip-small-norm"]


class ContributionClip(_Clip):
    """Blanks the pixels that contribute least."""

    kind: Literal["clip-small-contribution"]


Regulariser: TypeAlias = Annotated[
    L2Penalty | L1Penalty | TotalVariationPenalty | Blur | NormClip | ContributionClip, Field(discriminator="kind")
]


def terms_of(regularisers: Sequence[Regulariser]) -> list[Term]:
    """Return those that are terms of the loss."""
    parts = whylight.synthesis
    terms: list[Term] = []
    for one in regularisers:
        if isinstance(one, L2Penalty):
            terms.append(parts.L2(one.weight, one.period, one.schedule, centre=one.centre))
        elif isinstance(one, L1Penalty):
            terms.append(parts.L1(one.weight, one.period, one.schedule, centre=one.centre))
        elif isinstance(one, TotalVariationPenalty):
            terms.append(parts.TotalVariation(one.weight, one.period, one.schedule, beta=one.beta))
    return terms


def operators_of(regularisers: Sequence[Regulariser]) -> list[Operator]:
    """Return those that change the image between steps."""
    parts = whylight.synthesis
    operators: list[Operator] = []
    for one in regularisers:
        if isinstance(one, Blur):
            operators.append(parts.GaussianBlur(one.period, one.sigma))
        elif isinstance(one, NormClip):
            operators.append(parts.ClipSmallNorm(one.period, one.share, one.blank))
        elif isinstance(one, ContributionClip):
            operators.append(parts.ClipSmallContribution(one.period, one.share, one.blank))
    return operators
