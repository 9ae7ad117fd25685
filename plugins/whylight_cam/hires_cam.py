"""HiRes-CAM; knows only its definition."""

from __future__ import annotations

from whylight_cam.base import ClassActivationMap


class HiResCAM(ClassActivationMap):
    """Activations times gradients, position by position: where a layer with a linear head adds to the score, exactly.

    `ReLU(Σ_k g_k A_k)`. Before the ReLU, and at a layer that feeds global average pooling and one linear layer, the map
    sums to the score less its bias.

    Use it where the map must not show what the score does not depend on: places count by their own gradient.

    Avoid it at layers far from the output, where gradients change from place to place and the map becomes speckled; at
    a layer with global average pooling and one linear layer behind it, it is Grad-CAM.
    """

    name = "hires-cam"
    scheme = "hires-cam"
    reference = (
        "Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of CNNs, arXiv:2011.08891"
    )
