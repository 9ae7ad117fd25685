"""From one number for each colour channel of a pixel to one number for the pixel; knows no method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Reduce = Literal["max", "signed"]
DESCRIPTION = (
    "How the gradients of a pixel's colour channels become one number: 'max', the largest magnitude; 'signed', their "
    "sum."
)


def reduced(values: torch.Tensor, how: Reduce) -> torch.Tensor:
    """Return maps `[M, H, W]` of values `[M, C, H, W]`."""
    return values.sum(1) if how == "signed" else values.abs().amax(1)
