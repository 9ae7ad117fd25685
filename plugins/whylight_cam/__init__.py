"""Class activation maps, by gradients, by passes or by components, and maps of attention; one file each."""

from __future__ import annotations

import whylight
from whylight_cam.ablation_cam import AblationCAM
from whylight_cam.attention_rollout import AttentionRollout
from whylight_cam.cam import CAM
from whylight_cam.chefer import Chefer
from whylight_cam.eigen_cam import EigenCAM
from whylight_cam.finer_cam import FinerCAM
from whylight_cam.grad_cam import GradCAM
from whylight_cam.grad_cam_plus_plus import GradCAMPlusPlus
from whylight_cam.guided_grad_cam import GuidedGradCAM
from whylight_cam.hires_cam import HiResCAM
from whylight_cam.layer_cam import LayerCAM
from whylight_cam.score_cam import ScoreCAM
from whylight_cam.shapley_cam import ShapleyCAM
from whylight_cam.xgrad_cam import XGradCAM


@whylight.hookimpl
def whylight_methods() -> list[type[whylight.Method]]:
    """Offer the methods of this package."""
    return [
        CAM,
        GradCAM,
        GradCAMPlusPlus,
        XGradCAM,
        LayerCAM,
        HiResCAM,
        ScoreCAM,
        AblationCAM,
        EigenCAM,
        FinerCAM,
        ShapleyCAM,
        GuidedGradCAM,
        AttentionRollout,
        Chefer,
    ]
