"""The class's probability for the input as it is and for the part of it that a map shows; knows no metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_metrics.fill import DESCRIPTION, Fill
from whylight_metrics.per_target import enlarged, per_target

if TYPE_CHECKING:
    from torch import Tensor


class ShownPartOptions(whylight.PlainOptions):
    """What is where the map shows nothing."""

    baseline: Fill = Field("zero", description=DESCRIPTION)


def shown_part(
    subject: whylight.Subject, batch: whylight.Batch, maps: Tensor, options: ShownPartOptions
) -> tuple[Tensor, Tensor]:
    """Return for each target the probability for the whole input and for the part that is shown, both `[M]`.

    A pixel is shown as far as the map says, which is normalised to 0..1; what speaks against the target counts as 0.

    Raises:
        InvalidInput: a target is no class (reason TARGET_INVALID).
    """
    import torch

    if not all(isinstance(resolved.target, whylight.ClassIndex) for resolved in subject.resolve(batch)):
        raise whylight.InvalidInput(
            "the metric is of a class's probability, and the target is no class",
            reason="TARGET_INVALID",
            field="target",
        )
    own = per_target(subject, batch)
    base = whylight.baseline(options.baseline, own.inputs, subject.model.transform)
    visible = torch.stack([_normalised(one) for one in enlarged(maps.clamp(min=0), own.inputs)])[:, None]
    copies = (own.inputs, base + visible * (own.inputs - base))
    whole, part = subject.altered_scores(own, 2, lambda copy: copies[copy])
    return whole.double(), part.double()


def _normalised(map: Tensor) -> Tensor:
    low, high = map.min(), map.max()
    return (map - low) / (high - low) if high > low else map.new_zeros(map.shape)
