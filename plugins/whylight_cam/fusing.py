"""Maps of several layers, or of several copies of an input, brought to one scale and size and fused; runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import whylight

if TYPE_CHECKING:
    import torch

Fuse = Literal["mean", "max"]


def fuse(
    maps: Sequence[torch.Tensor], how: Fuse, profile: whylight.Profile, size: tuple[int, int], *, rectified: bool
) -> torch.Tensor:
    """Return the mean or the maximum of maps `[M, h, w]`, each first brought to 0..1 and to one size.

    Maps of layers differ by orders of magnitude, so each is rectified where its definition says so and normalised by
    its own range, as the profile does it, before it is resized: to the largest of them, or, as pytorch-grad-cam does
    it, to `size` (H, W) of the input, where the fused map is normalised once more.
    """
    import torch

    scaled = [normalised(one.relu() if rectified and profile.rectify else one, profile.normalise_eps) for one in maps]
    target = size if profile.normalise == "both" else largest(maps)
    stacked = torch.stack([resized(one, target, profile) for one in scaled])
    result = stacked.mean(0) if how == "mean" else stacked.amax(0)
    return normalised(result, profile.normalise_eps) if profile.normalise == "both" else result


def normalised(maps: torch.Tensor, eps: float) -> torch.Tensor:
    """Return ``(x - min) / (eps + max(x - min))`` of each map `[M, h, w]`; a constant map becomes 0."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    divisor = maps.amax((1, 2), keepdim=True) + eps
    return (maps / divisor).where(divisor != 0, 0.0)


def resized(maps: torch.Tensor, size: tuple[int, int], profile: whylight.Profile) -> torch.Tensor:
    """Return maps `[M, h, w]` at `size` (H, W), interpolated as the profile does it."""
    from torch.nn import functional

    if maps.shape[1:] == size:
        return maps
    corners = {} if profile.interpolation == "nearest" else {"align_corners": False}
    return functional.interpolate(maps[:, None], size, mode=profile.interpolation, **corners)[:, 0]


def largest(maps: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Return the greatest height and the greatest width of some maps `[M, h, w]`."""
    return max(one.shape[1] for one in maps), max(one.shape[2] for one in maps)
