"""The fused operators: class activation maps, total variation, Gram matrices; know tensors, not models.

Each operator has a native kernel (`csrc/`) and a plain-torch twin, `<operator>_reference`, that states what it computes
and stands in where there is no kernel. The losses and `gram` have gradients; nothing differentiates through the others.
"""

from whylight.ops.cam_overlay import cam_overlay, cam_overlay_reference
from whylight.ops.cam_pool import SCHEMES, cam_pool, cam_pool_reference
from whylight.ops.cam_render import cam_render, cam_render_reference
from whylight.ops.colour import colour_table
from whylight.ops.gram import NORMALISATIONS, gram, gram_loss, gram_loss_reference, gram_reference
from whylight.ops.native import NativeStatus, native_status
from whylight.ops.scale import Rendered, Scale
from whylight.ops.tv_loss import (
    tv_loss,
    tv_loss_reference,
    tv_loss_with_gradient,
    tv_loss_with_gradient_reference,
)

__all__ = [
    "NORMALISATIONS",
    "SCHEMES",
    "NativeStatus",
    "Rendered",
    "Scale",
    "cam_overlay",
    "cam_overlay_reference",
    "cam_pool",
    "cam_pool_reference",
    "cam_render",
    "cam_render_reference",
    "colour_table",
    "gram",
    "gram_loss",
    "gram_loss_reference",
    "gram_reference",
    "native_status",
    "tv_loss",
    "tv_loss_reference",
    "tv_loss_with_gradient",
    "tv_loss_with_gradient_reference",
]
