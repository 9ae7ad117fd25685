"""Pictures made by optimisation, of what a model has learned; one file for each method."""

from __future__ import annotations

import whylight
from whylight_synthesis.activation_maximization import ActivationMaximization
from whylight_synthesis.activation_maximization_code import ActivationMaximizationCode
from whylight_synthesis.activation_maximization_expert import ActivationMaximizationExpert
from whylight_synthesis.caricature import Caricature
from whylight_synthesis.deepdream import DeepDream
from whylight_synthesis.feature_inversion import FeatureInversion
from whylight_synthesis.fooling_image import FoolingImage
from whylight_synthesis.maco import Maco
from whylight_synthesis.style_transfer import StyleTransfer
from whylight_synthesis.texture_synthesis import TextureSynthesis


@whylight.hookimpl
def whylight_methods() -> list[type[whylight.Method]]:
    """Offer the methods of this package."""
    return [
        ActivationMaximization,
        ActivationMaximizationCode,
        ActivationMaximizationExpert,
        Caricature,
        DeepDream,
        FeatureInversion,
        FoolingImage,
        Maco,
        StyleTransfer,
        TextureSynthesis,
    ]
