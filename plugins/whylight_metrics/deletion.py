"""Deletion: how soon the model loses what it saw when the most relevant pixels go first; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight
from whylight_metrics.by_steps import StepOptions, area_under_curve

if TYPE_CHECKING:
    from torch import Tensor


class Deletion(whylight.Metric):
    """Area under the class's probability while pixels go, the most relevant first; lower is better.

    Pixels of the map at the size of the input, in their order, give way to a baseline (the mean colour of the training
    data, as in the authors' code). A low value says that the model needs what the map points at, or that the holes are
    pictures of a kind that it has never seen: compare with "insertion" and "road". Of a target that is no class, the
    value itself is taken in place of a probability.
    """

    name = "deletion"
    reference = "Petsiuk et al., RISE: Randomized Input Sampling for Explanation, BMVC 2018, arXiv:1806.07421"
    higher_is_better = False
    Options = StepOptions

    def measure(
        self,
        subject: whylight.Subject,
        batch: whylight.Batch,
        maps: Tensor,
        explain: whylight.Explain,
        options: StepOptions,
    ) -> whylight.Measured:
        """Return the area and the curve of each target."""
        return area_under_curve(subject, batch, maps, options, inserted=False)

    def cost(self, options: StepOptions) -> float:
        """Return the number of points of the curve."""
        return options.steps + 1.0
