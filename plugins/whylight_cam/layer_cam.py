"""Layer-CAM; knows only its definition."""

from __future__ import annotations

from whylight_cam.base import ClassActivationMap


class LayerCAM(ClassActivationMap):
    """Activations times positive gradients, position by position, which keeps fine detail in early layers.

    `ReLU(Σ_k ReLU(g_k) A_k)`.

    Use it at early layers, for finer maps than a last layer can give, or with several `layers` fused.

    Avoid it to tell classes apart: evidence against a class has no weight, so that maps of two classes may look alike.
    """

    name = "layer-cam"
    scheme = "layer-cam"
    reference = "Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE TIP 2021"
