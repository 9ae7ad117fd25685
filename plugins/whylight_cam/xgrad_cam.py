"""XGrad-CAM; knows only its definition."""

from __future__ import annotations

from whylight_cam.base import ClassActivationMap


class XGradCAM(ClassActivationMap):
    """Grad-CAM whose mean gradient is weighted by the activations, so that the weights conserve the target best.

    `ReLU(Σ_k w_k A_k)` with `w_k = Σ_ij g_k,ij A_k,ij / Σ_ij A_k,ij`, 0 where the denominator is 0. The profiles of
    pytorch-grad-cam and torchcam add 1e-7 and 1e-8 to the denominator.

    Use it in networks of convolutions and ReLU, where it conserves the score better than Grad-CAM; at a layer with
    global average pooling and one linear layer behind it, both are the same.

    Avoid it at layers whose activations have both signs (SiLU, GELU, normalised tokens): a channel's sum may be near 0
    there, and its weight anything.
    """

    name = "xgrad-cam"
    scheme = "xgrad-cam"
    reference = "Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs, BMVC 2020"
