"""XGrad-CAM; knows only its definition."""

from __future__ import annotations

import whylight
from whylight_cam.base import ClassActivationMap, LayerOptions


class XGradCAM(ClassActivationMap):
    """Grad-CAM whose mean gradient is weighted by the activations, so that the weights conserve the target best.

    `ReLU(Σ_k w_k A_k)` with `w_k = Σ_ij g_k,ij A_k,ij / Σ_ij A_k,ij`, 0 where the denominator is 0.
    """

    name = "xgrad-cam"
    scheme = "xgrad-cam"
    reference = "Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs, BMVC 2020"

    def eps(self, options: LayerOptions) -> float:
        """Return what the caller's profile adds to the denominator `Σ A`; 1e-7 with pytorch-grad-cam's."""
        return whylight.PROFILES[options.profile].xgrad_cam_eps
