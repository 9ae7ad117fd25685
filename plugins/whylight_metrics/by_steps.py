"""The target's value while pixels are taken away or put back in the order of a map; knows nothing of its use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_metrics.fill import DESCRIPTION, Fill
from whylight_metrics.per_target import enlarged, per_target, places

if TYPE_CHECKING:
    from torch import Tensor


class StepOptions(whylight.PlainOptions):
    """In how many steps pixels go or come, and what is in their place."""

    steps: int = Field(
        50, ge=1, le=1000, description="In how many steps all pixels are changed; at most as many as there are pixels."
    )
    baseline: Fill = Field("zero", description=DESCRIPTION)


def area_under_curve(
    subject: whylight.Subject, batch: whylight.Batch, maps: Tensor, options: StepOptions, *, inserted: bool
) -> whylight.Measured:
    """Return the area under the curve of the target's value over the part of pixels that is changed, 0 to 1.

    The most relevant pixels come first. With `inserted` they appear on the baseline, otherwise they give way to it.
    """
    import torch

    own = per_target(subject, batch)
    inputs = own.inputs
    base = whylight.baseline(options.baseline, inputs, subject.model.transform)
    place = places(enlarged(maps, inputs))
    pixels = place[0].numel()
    steps = min(options.steps, pixels)
    changed = torch.tensor([round(step * pixels / steps) for step in range(steps + 1)], device=inputs.device)
    before, after = (base, inputs) if inserted else (inputs, base)

    def altered(block: range) -> Tensor:
        done = place < changed[block.start : block.stop, None, None, None]
        return torch.where(done[:, :, None], after, before)

    pieces = [values for _, values in subject.altered_score_blocks(own, steps + 1, altered)]
    y = torch.cat(pieces).T.contiguous().double()
    x = changed.double() / pixels
    return whylight.Measured(torch.trapezoid(y, x), whylight.Curve(x, y))
