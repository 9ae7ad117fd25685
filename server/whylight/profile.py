"""The numeric conventions that libraries differ in, as data: constants, order, interpolation; computes nothing.

Sources: the papers; pytorch-grad-cam 1.5.7 `base_cam.py`, `utils/image.py`; captum 0.9.0 `layer/grad_cam.py`,
`_utils/attribution.py`; torch-cam HEAD `methods/core.py` (research/methods.md section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whylight.options import ProfileName


@dataclass(frozen=True)
class Profile:
    """One set of conventions.

    `rectify`: whether methods defined with a final ReLU apply it. `normalise`: min–max of the map "before" the resize,
    "after" it, or "both". `normalise_eps` is added to the range: (x - min) / (eps + max(x - min)).
    `interpolation`: how a map is resized; "bilinear" is with half-pixel centres (align_corners=False).
    `grad_cam_plus_plus_eps` and `xgrad_cam_eps` are added to the denominators of those methods.
    """

    name: ProfileName
    rectify: bool = True
    normalise: Literal["before", "after", "both"] = "after"
    normalise_eps: float = 0.0
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    grad_cam_plus_plus_eps: float = 0.0
    xgrad_cam_eps: float = 0.0


PROFILES: dict[ProfileName, Profile] = {
    profile.name: profile
    for profile in (
        Profile("paper"),
        Profile(
            "pytorch-grad-cam",
            normalise="both",
            normalise_eps=1e-7,
            grad_cam_plus_plus_eps=1e-6,
            xgrad_cam_eps=1e-7,
        ),
        Profile("captum", rectify=False, interpolation="nearest"),
        Profile("torchcam", normalise="before", normalise_eps=1e-8, xgrad_cam_eps=1e-8),
    )
}
