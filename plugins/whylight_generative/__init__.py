"""Autoencoders and what their latents see: VAEs as models, heat maps of latents, traversals, reconstructions."""

from __future__ import annotations

import whylight
from whylight_generative.latent_grad_cam import LatentGradCAM
from whylight_generative.latent_map import LatentMap
from whylight_generative.latent_traversal import LatentTraversal
from whylight_generative.reconstruction import Reconstruction
from whylight_generative.source import GenerativeSource


@whylight.hookimpl
def whylight_methods() -> list[type[whylight.Method]]:
    """Offer the methods of this package."""
    return [LatentGradCAM, LatentMap, LatentTraversal, Reconstruction]


@whylight.hookimpl
def whylight_models() -> list[type[whylight.ModelSource]]:
    """Offer the autoencoders of this package."""
    return [GenerativeSource]
