"""Gradients with respect to the input: saliency and input times gradient, one file each."""

from __future__ import annotations

import whylight
from whylight_gradients.input_x_gradient import InputXGradient
from whylight_gradients.saliency import Saliency


@whylight.hookimpl
def whylight_methods() -> list[type[whylight.Method]]:
    """Offer the methods of this package."""
    return [Saliency, InputXGradient]
