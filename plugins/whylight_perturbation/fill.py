"""What stands in the place of hidden pixels; knows inputs and how they were normalised, but not what is hidden."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    import whylight

Fill: TypeAlias = Literal["mean", "grey", "black", "blur", "zero"]

FILL_DESCRIPTION = (
    "What hidden pixels become: 'mean', the mean colour of the input; 'grey', the middle of the range of pixels; "
    "'black'; 'blur', the input under a Gaussian blur; 'zero', 0 of the normalised units, which is the mean colour of "
    "the training data, and captum's default."
)
BLURRED_SHARE = 1 / 16
"""Standard deviation of the blur, as a part of the shorter side."""


def filled(kind: Fill, inputs: Tensor, transform: whylight.Transform) -> Tensor:
    """Return what hides the pixels of `inputs` `[N, C, H, W]`: `[N, C, H, W]` or, of one colour, `[N, C, 1, 1]`.

    `inputs` are in the normalised units of `transform`, and so is what is returned; each input gets the same bits
    alone and in any batch.
    """
    import torch

    if kind == "mean":
        return torch.cat([one.mean((2, 3), keepdim=True) for one in torch.split(inputs, 1)])
    if kind == "blur":
        return torch.cat([_blurred(one) for one in torch.split(inputs, 1)])
    if kind == "zero":
        return inputs.new_zeros(len(inputs), inputs.shape[1], 1, 1)
    pixel = 0.0 if kind == "black" else 255 / 2
    colour = [(pixel / transform.scale - mean) / std for mean, std in zip(transform.mean, transform.std, strict=True)]
    return inputs.new_tensor(colour).view(1, -1, 1, 1).expand(len(inputs), -1, 1, 1)


def _blurred(input: Tensor) -> Tensor:
    """Return one input `[1, C, H, W]` under a Gaussian of three standard deviations each way, mirrored at its edges."""
    import torch
    import torch.nn.functional as F

    height, width = input.shape[2:]
    deviation = max(BLURRED_SHARE * min(height, width), 0.5)
    radius = min(math.ceil(3 * deviation), min(height, width) - 1)
    offsets = torch.arange(-radius, radius + 1, device=input.device, dtype=torch.float64)
    weights = (-(offsets**2) / (2 * deviation**2)).exp()
    kernel = (weights / weights.sum()).to(input.dtype).view(1, 1, -1, 1)
    channels = input.transpose(0, 1)
    mirrored = F.pad(channels, (radius, radius, radius, radius), mode="reflect")
    return F.conv2d(F.conv2d(mirrored, kernel), kernel.transpose(2, 3)).transpose(0, 1)
