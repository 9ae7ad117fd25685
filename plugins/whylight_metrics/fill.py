"""What stands in the place of removed pixels; knows inputs and how they were normalised, but not what is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    import whylight

Fill: TypeAlias = Literal["zero", "black", "mean", "blur"]

DESCRIPTION = (
    "What removed pixels become: 'zero', 0 of the normalised units, which is the mean colour of the training data; "
    "'black'; 'mean', the mean colour of the input; 'blur', the input under a Gaussian blur."
)
BLURRED_SHARE = 5 / 224
"""Deviation of the blur as a part of the shorter side: 5 pixels of 224, as in the code of Petsiuk et al."""


def filled(kind: Fill, inputs: Tensor, transform: whylight.Transform) -> Tensor:
    """Return what stands for removed pixels of `inputs` `[N, C, H, W]`, of the same shape and units."""
    import torch

    if kind == "zero":
        return torch.zeros_like(inputs)
    if kind == "black":
        return transform.from_unit(inputs.new_zeros(1, inputs.shape[1], 1, 1)).expand_as(inputs)
    # One by one: a sum over a whole batch may be shared out to threads in another way, and then has other bits.
    if kind == "mean":
        return torch.stack([input.mean((1, 2), keepdim=True).expand_as(input) for input in inputs])
    return torch.stack([_blurred(input) for input in inputs])


def _blurred(input: Tensor) -> Tensor:
    """Return one input `[C, H, W]` blurred; at the edges the kernel is cut off and normalised again."""
    height, width = input.shape[1:]
    deviation = max(BLURRED_SHARE * min(height, width), 0.5)
    down, across = (_kernel(length, deviation, input) for length in (height, width))
    return down @ input @ across.T


def _kernel(length: int, deviation: float, like: Tensor) -> Tensor:
    """Return the matrix that blurs along one dimension, `[length, length]`."""
    import torch

    at = torch.arange(length, dtype=like.dtype, device=like.device)
    weights = torch.exp(-0.5 * ((at[:, None] - at[None, :]) / deviation) ** 2)
    return weights / weights.sum(1, keepdim=True)
