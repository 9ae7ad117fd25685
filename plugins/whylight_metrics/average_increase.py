"""Average increase: whether the class becomes likelier when only what the map shows is left; knows its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight
from whylight_metrics.shown_part import ShownPartOptions, shown_part

if TYPE_CHECKING:
    from torch import Tensor


class AverageIncrease(whylight.Metric):
    """Whether the class becomes likelier, 1 or 0, when only what the map shows is left; higher is better.

    `1[Y < O]`, with `Y` the probability for the input and `O` that for the input times the map (normalised to 0..1).
    The paper gives the mean over a data set, in per cent: the mean over the inputs of a call.
    """

    name = "average-increase"
    reference = "Chattopadhay et al., Grad-CAM++, WACV 2018, section 4.1, arXiv:1710.11063"
    Options = ShownPartOptions

    def measure(
        self,
        subject: whylight.Subject,
        batch: whylight.Batch,
        maps: Tensor,
        explain: whylight.Explain,
        options: ShownPartOptions,
    ) -> whylight.Measured:
        """Return 1 or 0 for each target."""
        whole, part = shown_part(subject, batch, maps, options)
        return whylight.Measured((whole < part).double())

    def cost(self, options: ShownPartOptions) -> float:
        """Return the two runs."""
        return 2.0
