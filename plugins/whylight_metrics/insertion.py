"""Insertion: how soon the model is sure when the most relevant pixels appear first; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_metrics.by_steps import StepOptions, area_under_curve
from whylight_metrics.fill import DESCRIPTION, Fill

if TYPE_CHECKING:
    from torch import Tensor


class InsertionOptions(StepOptions):
    """In how many steps pixels appear, and on what."""

    baseline: Fill = Field("blur", description=DESCRIPTION)


class Insertion(whylight.Metric):
    """Area under the class's probability while pixels appear, the most relevant first; higher is better.

    Pixels of the map at the size of the input, in their order, take the place of a baseline: a blurred input, as in the
    authors' code, which blurs by 5 pixels of 224; here it is whylight's 'blur', which leaves less of the object to be
    seen before the first pixel comes. A high value says that what the map points at is enough for the model. Of a
    target that is no class, the value itself is taken in place of a probability.
    """

    name = "insertion"
    reference = "Petsiuk et al., RISE: Randomized Input Sampling for Explanation, BMVC 2018, arXiv:1806.07421"
    Options = InsertionOptions

    def measure(
        self,
        subject: whylight.Subject,
        batch: whylight.Batch,
        maps: Tensor,
        explain: whylight.Explain,
        options: InsertionOptions,
    ) -> whylight.Measured:
        """Return the area and the curve of each target."""
        return area_under_curve(subject, batch, maps, options, inserted=True)

    def cost(self, options: InsertionOptions) -> float:
        """Return the number of points of the curve."""
        return options.steps + 1.0
