"""What methods have in common that explain noisy copies of an input: the noise, the base, the cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_gradients.bases import BaseOptions, attributions
from whylight_gradients.draws import Draws, spread

if TYPE_CHECKING:
    import torch


class NoisyOptions(BaseOptions):
    """How many copies, and how noisy."""

    samples: int = Field(25, ge=2, le=1000, description="Noisy copies of each input.")
    noise: float = Field(
        0.15,
        ge=0,
        le=10,
        description="Standard deviation of the Gaussian noise, as a part of the input's range (its largest minus its "
        "smallest value).",
    )


class Noisy(whylight.Attribution):
    """Explains noisy copies by a base; a subclass says what becomes of what they give."""

    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    Options = NoisyOptions

    def of_copies(
        self, subject: whylight.Subject, batch: whylight.Batch, options: NoisyOptions
    ) -> Iterator[torch.Tensor]:
        """Yield what the base gives for each noisy copy, `[M, C, H, W]`."""
        draws = Draws(batch, options.samples)
        deviation = spread(batch.inputs, options.noise)

        def copy(index: int) -> torch.Tensor:
            return batch.inputs + deviation * draws.normal(batch.inputs, index)

        return attributions(subject, batch, options, options.samples, copy)

    def cost(self, options: NoisyOptions) -> float:
        """Return the cost of the base, a pass forward and back for each of its gradients, for each copy."""
        return 2.0 * options.samples * options.passes

    def cost_per_target(self, options: NoisyOptions) -> float:
        """Return the cost of a further pass back for each of them; all targets share the forward passes."""
        return 1.0 * options.samples * options.passes
