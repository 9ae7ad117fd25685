"""Explanations by hiding parts of the input: occlusion, RISE, LIME and kernel SHAP, one file each."""

from __future__ import annotations

import whylight
from whylight_perturbation.kernel_shap import KernelSHAP
from whylight_perturbation.lime import LIME
from whylight_perturbation.occlusion import Occlusion
from whylight_perturbation.rise import RISE

__all__ = ["LIME", "RISE", "KernelSHAP", "Occlusion"]


@whylight.hookimpl
def whylight_methods() -> list[type[whylight.Method]]:
    """Offer the methods of this package."""
    return [Occlusion, RISE, LIME, KernelSHAP]
