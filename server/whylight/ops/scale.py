"""How a map becomes a picture: sign, normalisation, resize; states the arithmetic in plain torch, knows no kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NORMALISE = {"none": 0, "before": 1, "after": 2, "both": 3}
INTERPOLATION = {"bilinear": 0, "bilinear-corners": 1, "nearest": 2}


@dataclass(frozen=True)
class Scale:
    """What happens to a map on its way to a picture, in this order.

    `rectify` takes the positive part. `normalise` says whether the map is normalised "before" the resize, "after" it,
    "both" or not at all ("none"): to ``(x - min) / (eps + max(x - min))``, or with `signed` to ``x / (eps + max |x|)``,
    from -1 to 1; a constant map, or for `signed` a zero one, becomes 0. `interpolation` is "bilinear" with half-pixel
    centres (align_corners=False), "bilinear-corners" (align_corners=True) or "nearest".
    """

    rectify: bool = False
    signed: bool = False
    normalise: Literal["none", "before", "after", "both"] = "after"
    eps: float = 0.0
    interpolation: Literal["bilinear", "bilinear-corners", "nearest"] = "bilinear"
    codes: tuple[bool, bool, int, float, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.normalise not in NORMALISE:
            raise ValueError(f"unknown normalise {self.normalise!r}; known: {', '.join(NORMALISE)}")
        if self.interpolation not in INTERPOLATION:
            raise ValueError(f"unknown interpolation {self.interpolation!r}; known: {', '.join(INTERPOLATION)}")
        # The numbers that the operators take, worked out once: a Scale lives as long as its plan.
        object.__setattr__(
            self,
            "codes",
            (self.rectify, self.signed, NORMALISE[self.normalise], float(self.eps), INTERPOLATION[self.interpolation]),
        )


@dataclass(frozen=True)
class Rendered:
    """Rendered maps `values`, and per map the minimum `low` and maximum `high` ``[M]`` of the native map.

    `low` and `high` are taken after `rectify` and before any normalisation, which they undo; float32, or float64 for
    float64 maps.
    """

    values: Tensor
    low: Tensor
    high: Tensor


def check_maps(operator: str, maps: Tensor, size: tuple[int, int]) -> None:
    """Raise for maps and sizes that the kernels refuse, in their words."""
    torch._check(maps.dim() == 3, lambda: f"{operator}: maps must be [M, h, w], got {maps.dim()}-D")
    torch._check(
        maps.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64),
        lambda: f"{operator}: maps must be float16, bfloat16, float32 or float64, got {maps.dtype}",
    )
    torch._check(
        maps.shape[1] > 0 and maps.shape[2] > 0,
        lambda: f"{operator}: maps must not be empty, got {list(maps.shape)}",
    )
    torch._check(size[0] > 0 and size[1] > 0, lambda: f"{operator}: size must be positive, got {tuple(size)}")


def scaled(maps: Tensor, size: tuple[int, int], scale: Scale, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rectify, normalise and resize `maps` in `dtype`; return them with the minimum and maximum of the native maps."""
    maps = maps.to(dtype)
    if scale.rectify:
        maps = maps.relu()
    low, high = maps.amin((1, 2)), maps.amax((1, 2))
    if scale.normalise in ("before", "both"):
        maps = _normalised(maps, scale)
    flat = (maps == maps[:, :1, :1]).all((1, 2), keepdim=True)
    level = maps[:, :1, :1]
    if scale.interpolation == "nearest":
        maps = F.interpolate(maps[:, None], size, mode="nearest")[:, 0]
    else:
        corners = scale.interpolation == "bilinear-corners"
        maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=corners)[:, 0]
    # F.interpolate's weights do not quite add up to 1: a constant map would get noise, which normalising would blow up.
    maps = torch.where(flat, level, maps)
    if scale.normalise in ("after", "both"):
        maps = _normalised(maps, scale)
    return maps, low, high


def _normalised(maps: Tensor, scale: Scale) -> Tensor:
    if not scale.signed:
        maps = maps - maps.amin((1, 2), keepdim=True)
    divisor = maps.abs().amax((1, 2), keepdim=True) + scale.eps
    return torch.where(divisor == 0, torch.zeros_like(maps), maps / divisor)


def quantised(values: Tensor, scale: Scale) -> Tensor:
    """Return 255 times the values, truncated to uint8, as ``np.uint8(255 * x)``; signed values from -1..1, NaN as 0."""
    if scale.signed:
        values = (values + 1) * 0.5
    return (255 * values.clamp(0, 1)).nan_to_num(0.0).to(torch.uint8)
