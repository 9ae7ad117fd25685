"""What a network sees inside: its answers, its layers, their activations and weights; one file for each method."""

from __future__ import annotations

import whylight
from whylight_inspection.activations import Activations
from whylight_inspection.filters import Filters
from whylight_inspection.layers import Layers
from whylight_inspection.predictions import Predictions
from whylight_inspection.top_patches import TopPatches


@whylight.hookimpl
def whylight_methods() -> list[type[whylight.Method]]:
    """Offer the methods of this package."""
    return [Activations, Filters, Layers, Predictions, TopPatches]
