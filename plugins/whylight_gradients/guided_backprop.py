"""Guided backpropagation: the gradient with only positive signals sent back; knows only its definition."""

from __future__ import annotations

import whylight
from whylight_gradients.gradient_map import GradientMap


class GuidedBackprop(GradientMap):
    """Gradient that goes back through each ReLU only where it is positive and the ReLU was active: crisp edges.

    `R = R' · (output > 0) · (R' > 0)` at every ReLU on the way back, the derivative everywhere else; max pooling sends
    back to where its maximum was. Every way to call ReLU counts, and ReLU6 too, whose clipped units send nothing back;
    in a network with other activations as well (MobileNet-V3) those keep their derivative. A network without any ReLU
    is refused.

    Costs one pass forward and one back, as saliency.

    Use it to see which fine structures excite a network.

    Avoid it to tell classes apart (grad-cam, or the product of both, guided-grad-cam): this map hardly depends on the
    class, nor on the upper layers' weights (Adebayo et al. 2018).
    """

    name = "guided-backprop"
    reference = "Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015"
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.RELU})

    def rule(self) -> whylight.BackwardRule:
        """Return the guided way back."""
        return whylight.GuidedRelu()
