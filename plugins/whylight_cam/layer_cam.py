"""Layer-CAM; knows only its definition."""

from __future__ import annotations

from whylight_cam.base import ClassActivationMap


class LayerCAM(ClassActivationMap):
    """Activations times positive gradients, position by position, which keeps fine detail in early layers.

    `ReLU(Σ_k ReLU(g_k) A_k)`.
    """

    name = "layer-cam"
    scheme = "layer-cam"
    reference = "Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE TIP 2021"
