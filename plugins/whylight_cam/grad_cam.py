"""Grad-CAM; knows only its definition."""

from __future__ import annotations

from whylight_cam.base import ClassActivationMap


class GradCAM(ClassActivationMap):
    """Sum of a layer's channels, each weighted by the mean gradient of the target with respect to it.

    `ReLU(Σ_k α_k A_k)` with `α_k = mean_ij ∂y/∂A_k,ij`. Defined at any layer with a spatial output.

    Use it first: it is cheap, tells classes apart, and works with every network that has a layer with positions, and
    for every target behind it.

    Avoid it for fine detail (the map is as coarse as the layer; see layer-cam and guided-grad-cam) and, at layers far
    from a linear head, where exact places matter: the mean gradient ignores where it was taken (see hires-cam).
    """

    name = "grad-cam"
    scheme = "grad-cam"
    reference = (
        "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017"
    )
