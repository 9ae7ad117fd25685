"""Grad-CAM; knows only its definition."""

from __future__ import annotations

from whylight_cam.base import ClassActivationMap


class GradCAM(ClassActivationMap):
    """Sum of a layer's channels, each weighted by the mean gradient of the target with respect to it.

    `ReLU(Σ_k α_k A_k)` with `α_k = mean_ij ∂y/∂A_k,ij`. Defined at any layer with a spatial output.
    """

    name = "grad-cam"
    scheme = "grad-cam"
    reference = (
        "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017"
    )
