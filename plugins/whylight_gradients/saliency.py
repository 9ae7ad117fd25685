"""Saliency: the plain gradient of the target; knows only its definition."""

from __future__ import annotations

from whylight_gradients.gradient_map import GradientMap


class Saliency(GradientMap):
    """Gradient of the target with respect to the input: where a small change of a pixel changes the answer most.

    `∂y/∂x` in the normalised units that the network sees, one number for each pixel: `max_c |∂y/∂x_c|`, as the paper
    draws it, or with `reduce` "signed" the sum over the channels, whose sign says whether brightening the pixel raises
    the target. Captum's Saliency keeps the channels apart; the largest of its channels is our "max", and with
    `abs=False` their sum our "signed".

    Use it for what the answer is sensitive to, pixel by pixel, in any network, at the least cost.

    Avoid it for what adds to the answer (integrated-gradients, lrp), and where speckle hides the picture (smoothgrad).
    Much of it is edges, whatever the class.
    """

    name = "saliency"
    reference = (
        "Simonyan et al., Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency "
        "Maps, ICLR workshop 2014"
    )
