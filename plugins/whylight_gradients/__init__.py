"""Gradients with respect to the input, and what is made of them: one method to a file."""

from __future__ import annotations

import whylight
from whylight_gradients.deconvnet import Deconvnet
from whylight_gradients.deeplift import DeepLift
from whylight_gradients.expected_gradients import ExpectedGradients
from whylight_gradients.gradient_shap import GradientShap
from whylight_gradients.guided_backprop import GuidedBackprop
from whylight_gradients.input_x_gradient import InputXGradient
from whylight_gradients.integrated_gradients import IntegratedGradients
from whylight_gradients.saliency import Saliency
from whylight_gradients.smoothgrad import SmoothGrad
from whylight_gradients.taylor import Taylor
from whylight_gradients.vargrad import VarGrad


@whylight.hookimpl
def whylight_methods() -> list[type[whylight.Method]]:
    """Offer the methods of this package."""
    return [
        Saliency,
        InputXGradient,
        Taylor,
        GuidedBackprop,
        Deconvnet,
        IntegratedGradients,
        SmoothGrad,
        VarGrad,
        GradientShap,
        ExpectedGradients,
        DeepLift,
    ]
