"""Relevance that is handed back layer by layer: layer-wise relevance propagation and deep Taylor decomposition."""

from __future__ import annotations

import whylight
from whylight_relevance.deep_taylor import DeepTaylor
from whylight_relevance.lrp import LRP


@whylight.hookimpl
def whylight_methods() -> list[type[whylight.Method]]:
    """Offer the methods of this package."""
    return [LRP, DeepTaylor]
