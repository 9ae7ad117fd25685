"""The fused operators: pooling a class activation map, rendering it, colouring it; knows tensors, not models.

Each operator has a native kernel (`csrc/`) and a plain-torch twin, `<operator>_reference`, that states what it computes
and stands in where there is no kernel. None of them has a gradient: nothing differentiates through them.
"""

from whylight.ops.cam_overlay import cam_overlay, cam_overlay_reference
from whylight.ops.cam_pool import SCHEMES, cam_pool, cam_pool_reference
from whylight.ops.cam_render import cam_render, cam_render_reference
from whylight.ops.colour import colour_table
from whylight.ops.native import NativeStatus, native_status
from whylight.ops.scale import Rendered, Scale

__all__ = [
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
    "native_status",
]
