"""Test-time smoothing: the mean of the maps of six changed copies of an input; knows no method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import whylight
from whylight_cam.fusing import Fuse, fuse

if TYPE_CHECKING:
    import torch

    Pool = Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]

COPIES = tuple((mirrored, factor) for mirrored in (False, True) for factor in (0.9, 1.0, 1.1))
"""Whether a copy is mirrored left to right, and by what it is multiplied: `aug_smooth` of pytorch-grad-cam."""

SMOOTH = (
    "Mean of the maps of six copies of the input: mirrored or not, times 0.9, 1 and 1.1. Six times the cost; steadier "
    "edges."
)
"""What callers are told of the option."""


def smoothed(
    subject: whylight.Subject,
    batch: whylight.Batch,
    layers: Sequence[str],
    pool: Pool,
    how: Fuse,
    profile: whylight.Profile,
    *,
    rectified: bool,
) -> torch.Tensor:
    """Return the mean over six copies of each input of the map of each, `[M, h, w]`.

    A copy's map is that of `pool`, which takes activations `[N, C, h, w]`, gradients `[M, C, h, w]` and rows, fused
    over `layers` as `fuse` does it and thus in 0..1; the maps of mirrored copies are mirrored back. The factors apply
    to the normalised input, as in pytorch-grad-cam.
    """
    import torch

    def alter(index: int) -> torch.Tensor:
        mirrored, factor = COPIES[index]
        return (batch.inputs.flip(-1) if mirrored else batch.inputs) * factor

    maps: list[list[torch.Tensor]] = [[] for _ in COPIES]
    for layer in layers:
        for altered in subject.altered_gradients(batch, len(COPIES), alter, layer=layer):
            maps[altered.index].append(pool(altered.activations, altered.gradients, batch.rows))
    size = (batch.inputs.shape[2], batch.inputs.shape[3])
    fused = [fuse(several, how, profile, size, rectified=rectified) for several in maps]
    turned = [one.flip(-1) if mirrored else one for one, (mirrored, _) in zip(fused, COPIES, strict=True)]
    return torch.stack(turned).mean(0)
