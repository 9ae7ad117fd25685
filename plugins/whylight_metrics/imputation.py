"""Noisy linear imputation without its noise: removed pixels become weighted means of their neighbours; knows no map.

Each removed pixel is to be the mean of its eight neighbours, those beside it with twice the weight of those across
(Rong et al., ICML 2022, section 5). With `D` the weights that a pixel has inside the picture, this is the linear system
`D x − K x = 0` at the removed pixels, symmetric and positive definite, which conjugate gradients solve for a whole
batch on its device. Every sum is folded in a fixed order and rows that are solved stand still, so that a row has the
same bits alone and in any batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-6
"""Length of the residual, in the norm of `D⁻¹`, at which a row is solved, as a part of that of the known values."""

ITERATIONS = 2000
"""Far more than 224 x 224 pixels need; a row that is not solved then is taken as it is."""

_CHECKED = 8
"""After how many iterations it is asked whether all rows are solved, which waits for the device."""


def imputed(inputs: Tensor, removed: Tensor) -> Tensor:
    """Return `inputs` `[R, C, H, W]` with the pixels `removed` `[R, H, W]` filled from their surroundings.

    At least one pixel of each row must be left.
    """
    import torch

    hidden = removed[:, None].to(inputs.dtype)
    weights = _neighbours(torch.ones_like(hidden))
    known = inputs * (1 - hidden)
    x = known + _spread(known, 1 - hidden) * hidden
    constant = _neighbours(known) * hidden
    bound = TOLERANCE**2 * _folded(constant * constant / weights)
    residual = (_neighbours(x) - weights * x) * hidden
    step = residual / weights
    length = _folded(residual * step)
    direction = step
    for iteration in range(ITERATIONS):
        open_rows = length > bound
        if iteration % _CHECKED == 0 and not bool(open_rows.any()):
            break
        image = (weights * direction - _neighbours(direction)) * hidden
        along = _folded(direction * image)
        rate = torch.where(open_rows, length / along, 0)
        x = x + rate * direction
        residual = residual - rate * image
        step = residual / weights
        following = torch.where(open_rows, _folded(residual * step), length)
        direction = torch.where(open_rows, step + following / length * direction, direction)
        length = following
    return x


def _neighbours(x: Tensor) -> Tensor:
    """Return the weighted sum of each pixel's neighbours: 1/6 beside it, 1/12 across, nothing outside the picture."""
    import torch.nn.functional as F

    tall = F.pad(x, (0, 0, 1, 1))
    rows = tall[..., :-2, :] + 2 * x + tall[..., 2:, :]
    wide = F.pad(rows, (1, 1))
    return (wide[..., :-2] + 2 * rows + wide[..., 2:] - 4 * x) / 12


def _folded(x: Tensor) -> Tensor:
    """Return the sums of `[R, C, H, W]` over the pixels, `[R, C, 1, 1]`, added up in halves."""
    import torch.nn.functional as F

    flat = x.flatten(2)
    length = 1 << math.ceil(math.log2(max(flat.shape[2], 1)))
    flat = F.pad(flat, (0, length - flat.shape[2]))
    while length > 1:
        length //= 2
        flat = flat[..., :length] + flat[..., length:]
    return flat[..., None]


def _spread(values: Tensor, known: Tensor) -> Tensor:
    """Return a first guess for what is not known: means over squares of 2, 4, 8 … pixels, the smallest with any known.

    `values` `[R, C, H, W]` are 0 where `known` `[R, 1, H, W]` is.
    """
    if known.shape[-2:] == (1, 1):
        return values / known.clamp(min=1e-12)
    sums, counts = _halved(values), _halved(known)
    present = (counts > 0).to(values.dtype)
    coarse = sums / counts.clamp(min=1)
    coarse = coarse + _spread(coarse * present, present) * (1 - present)
    fine = coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)
    return fine[..., : values.shape[-2], : values.shape[-1]]


def _halved(x: Tensor) -> Tensor:
    """Return the sums over squares of 2 x 2 pixels; beyond the edge there is 0."""
    import torch.nn.functional as F

    even = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    rows = even[..., ::2, :] + even[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]
