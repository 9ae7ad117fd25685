"""Average drop: what of the class's probability is lost when only what the map shows is left; knows its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight
from whylight_metrics.shown_part import ShownPartOptions, shown_part

if TYPE_CHECKING:
    from torch import Tensor


class AverageDrop(whylight.Metric):
    """Part of the class's probability that is lost when only what the map shows is left; lower is better.

    `max(0, Y − O) / Y`, with `Y` the probability for the input and `O` that for the input times the map (normalised to
    0..1). The paper gives the mean over a data set, in per cent: the mean over the inputs of a call. A map that is 1
    everywhere loses nothing: read it beside "average-increase" or "deletion".
    """

    name = "average-drop"
    reference = "Chattopadhay et al., Grad-CAM++, WACV 2018, section 4.1, arXiv:1710.11063"
    higher_is_better = False
    Options = ShownPartOptions

    def measure(
        self,
        subject: whylight.Subject,
        batch: whylight.Batch,
        maps: Tensor,
        explain: whylight.Explain,
        options: ShownPartOptions,
    ) -> whylight.Measured:
        """Return the drop of each target, 0 to 1."""
        whole, part = shown_part(subject, batch, maps, options)
        return whylight.Measured((whole - part).clamp(min=0) / whole.clamp(min=1e-300))

    def cost(self, options: ShownPartOptions) -> float:
        """Return the two runs."""
        return 2.0
