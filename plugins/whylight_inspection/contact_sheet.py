"""Many small maps or pictures as one picture: colours, frames, a grid; knows no model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import whylight

if TYPE_CHECKING:
    from torch import Tensor

_FRAME = 1
_FRAME_GREY = 255


def coloured(maps: Tensor, colour_map: str, *, signed: bool) -> Tensor:
    """Return maps `[K, h, w]` as pictures uint8 `[K, h, w, 3]`, each in its own range.

    Of signed maps, 0 is the middle of the colours and the largest magnitude their end. A constant map has one colour.
    """
    import torch

    flat = maps.float().flatten(1)
    if signed:
        largest = flat.abs().amax(1, keepdim=True)
        shares = (flat / largest.where(largest > 0, 1.0) + 1) / 2
    else:
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        shares = (flat - low) / (high - low).where(high > low, 1.0)
    indices = (shares * 255).round().to(torch.int64).view(maps.shape)
    return whylight.ops.colour_table(colour_map).to(maps.device)[indices]


def contact_sheet(pictures: Tensor, least_side: int = 0) -> Tensor:
    """Return pictures uint8 `[K, h, w, 3]` in a grid as square as can be, row by row, framed in white.

    Those whose longer side is below `least_side` are enlarged by a whole factor, their pixels kept apart.
    """
    count, height, width, _ = pictures.shape
    factor = max(1, math.ceil(least_side / max(height, width)))
    pictures = pictures.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell = (height * factor + _FRAME, width * factor + _FRAME)
    sheet = pictures.new_full((rows * cell[0] + _FRAME, columns * cell[1] + _FRAME, 3), _FRAME_GREY)
    for place, picture in enumerate(pictures):
        top, left = (place // columns) * cell[0] + _FRAME, (place % columns) * cell[1] + _FRAME
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet
