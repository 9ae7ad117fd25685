"""Saliency: the plain gradient of the target; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight

if TYPE_CHECKING:
    import torch


class SaliencyOptions(whylight.Options):
    """How the colour channels become one map."""

    reduce: Literal["max", "signed"] = Field(
        "max",
        description="How the gradients of a pixel's colour channels become one number: 'max', the largest magnitude; "
        "'signed', their sum.",
    )


class Saliency(whylight.Attribution):
    """Gradient of the target with respect to the input: where a small change of a pixel changes the answer most.

    `∂y/∂x` in the normalised units that the network sees, one number for each pixel: `max_c |∂y/∂x_c|`, as the paper
    draws it, or with `reduce` "signed" the sum over the channels, whose sign says whether brightening the pixel raises
    the target. Captum's Saliency keeps the channels apart; the largest of its channels is our "max", and with
    `abs=False` their sum our "signed".
    """

    name = "saliency"
    reference = (
        "Simonyan et al., Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency "
        "Maps, ICLR workshop 2014"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    Options = SaliencyOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: SaliencyOptions) -> torch.Tensor:
        """Return the maps `[M, H, W]` at the size of the input."""
        gradients = subject.input_gradients(batch)
        return gradients.sum(1) if options.reduce == "signed" else gradients.abs().amax(1)

    def presentation(self, options: SaliencyOptions) -> whylight.Presentation:
        """Say whether the sign means something."""
        return whylight.Presentation(signed=options.reduce == "signed")

    def cost(self, options: SaliencyOptions) -> float:
        """Return the cost of a pass forward and one back through the whole network."""
        return 2.0

    def cost_per_target(self, options: SaliencyOptions) -> float:
        """Return the cost of one more pass back; all targets share the forward pass."""
        return 1.0
