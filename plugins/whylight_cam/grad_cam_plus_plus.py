"""Grad-CAM++; knows only its definition."""

from __future__ import annotations

from whylight_cam.base import ClassActivationMap


class GradCAMPlusPlus(ClassActivationMap):
    """Grad-CAM whose weights count positive gradients only, position by position, so that each instance counts.

    `ReLU(Σ_k w_k A_k)` with `w_k = Σ_ij a_k,ij ReLU(g_k,ij)` and `a = g² / (2 g² + g³ Σ_ij A_k)`, 0 where g = 0. This
    closed form holds for a target that passes through an exponential; as every library does, it is used with the plain
    score, so the map changes with the scale of the score (unlike that of the other methods of this family). The profile
    "torchcam" follows that library's drawing only: its weights are not those of the paper. That of pytorch-grad-cam
    adds 1e-6 to the denominator.

    Use it where a class is there several times, or where Grad-CAM covers only a part of a large object.

    Avoid it to tell classes apart: evidence against a class has no weight, so that maps of two classes may look alike.
    """

    name = "grad-cam++"
    scheme = "grad-cam++"
    reference = (
        "Chattopadhay et al., Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks, WACV 2018"
    )
