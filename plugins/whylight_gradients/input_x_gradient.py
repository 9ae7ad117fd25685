"""Input times gradient: the first-order Taylor expansion of the target at zero; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight

if TYPE_CHECKING:
    import torch


class InputXGradient(whylight.Attribution):
    """Input times gradient, summed over the colour channels: what each pixel adds to the target, to first order.

    `Σ_c x_c ∂y/∂x_c`, the simple Taylor decomposition with its root point at 0 of the normalised units that the network
    sees: the mean colour of its training data, or black for a network that takes 0..1 as it is. In a network of linear
    layers without biases, ReLU and max pooling the map sums to the target.

    Use it for a first, signed look at what speaks for the target and what against it, at the cost of a gradient.

    Avoid it where the origin of the units means nothing, for what is 0 there gets nothing (taylor has other root
    points), and in deep networks where shares must add up (deeplift, integrated-gradients, lrp).
    """

    name = "input-x-gradient"
    reference = (
        "Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating Activation "
        "Differences, arXiv:1605.01713"
    )
    needs = frozenset({whylight.Need.GRADIENTS})

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: whylight.Options) -> torch.Tensor:
        """Return the maps `[M, H, W]` at the size of the input."""
        return (batch.inputs[list(batch.rows)] * subject.input_gradients(batch)).sum(1)

    def presentation(self, options: whylight.Options) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: whylight.Options) -> float:
        """Return the cost of a pass forward and one back through the whole network."""
        return 2.0

    def cost_per_target(self, options: whylight.Options) -> float:
        """Return the cost of one more pass back; all targets share the forward pass."""
        return 1.0
