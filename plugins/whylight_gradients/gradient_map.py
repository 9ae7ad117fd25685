"""What methods have in common whose map is a gradient at the input; knows none of the ways back through a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_gradients import reducing

if TYPE_CHECKING:
    import torch


class GradientOptions(whylight.Options):
    """How the colour channels become one map."""

    reduce: reducing.Reduce = Field("max", description=reducing.DESCRIPTION)


class GradientMap(whylight.Attribution):
    """A gradient at the input, its colour channels reduced; a subclass says by which rule it goes back."""

    needs = frozenset({whylight.Need.GRADIENTS})
    Options = GradientOptions

    def rule(self) -> whylight.BackwardRule | None:
        """Return the way back; None is the derivative."""
        return None

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: GradientOptions) -> torch.Tensor:
        """Return the maps `[M, H, W]` at the size of the input."""
        return reducing.reduced(subject.input_gradients(batch, rule=self.rule()), options.reduce)

    def presentation(self, options: GradientOptions) -> whylight.Presentation:
        """Say whether the sign means something."""
        return whylight.Presentation(signed=options.reduce == "signed")

    def cost(self, options: GradientOptions) -> float:
        """Return the cost of a pass forward and one back through the whole network."""
        return 2.0

    def cost_per_target(self, options: GradientOptions) -> float:
        """Return the cost of one more pass back; all targets share the forward pass."""
        return 1.0
