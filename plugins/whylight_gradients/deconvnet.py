"""Deconvnet: the network run backwards with ReLU on the way back; knows only its definition."""

from __future__ import annotations

import whylight
from whylight_gradients.gradient_map import GradientMap


class Deconvnet(GradientMap):
    """The target projected back to the pixels through the transposed network, with a ReLU in place of each ReLU.

    `R = R' · (R' > 0)` at every ReLU on the way back, whatever its input was; max pooling sends back to where its
    maximum was (the switches of the paper), and convolutions are transposed, as in the derivative. Every way to call
    ReLU counts, and ReLU6 too; other activations keep their derivative. A network without any ReLU is refused.

    Costs one pass forward and one back, as saliency.

    Use it to see what pattern a unit or a class stands for in this input, best from a unit in the middle of a network
    with max pooling.

    Avoid it to tell classes apart: it hardly depends on the class. In a network of ReLU without max pooling (ResNet
    behind its stem, EfficientNet-lite) nothing in it depends on the input: every photo gets the same checkerboard of
    strides, and guided-backprop is what you want.
    """

    name = "deconvnet"
    reference = "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014"
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.RELU})

    def rule(self) -> whylight.BackwardRule:
        """Return the deconvnet's way back."""
        return whylight.DeconvnetRelu()
