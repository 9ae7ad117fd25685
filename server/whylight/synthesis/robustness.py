"""How the model looks at an image at each step: shifted, turned, scaled at random; knows no model.

A picture that excites a unit only pixel by pixel falls apart when it is moved a little; one that does so in every
position has structure (Mordvintsev et al., DeepDream, 2015; Olah et al., Feature Visualization, Distill 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 0.5


@dataclass(frozen=True)
class Robustness:
    """Random movements, drawn for each image and step from the image's own generator.

    `jitter` is the largest shift in pixels, `rotate` the largest turn in degrees, `scale` the largest factor beyond 1
    (0.1: from 0.9 to 1.1). `pad` is the width in pixels of a grey frame through which the model sees the whole image,
    `crop` the largest share of the sides that it does not see (0.25: a place of at least three quarters of them). What
    comes in from outside is the border of the image, or of its frame. A jitter alone shifts by whole pixels, round the
    edges, and interpolates nothing.
    """

    jitter: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    pad: int = 0
    crop: float = 0.0

    def view(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return what the model looks at, `[B, C, H, W]` as `images`; gradients flow back."""
        if not (self.rotate or self.scale or self.pad or self.crop):
            return self._rolled(images, generators) if self.jitter else images
        framed = F.pad(images, [self.pad] * 4, value=GREY) if self.pad else images
        height, width = framed.shape[2:]
        moves = [self._movement(generator, height, width) for generator in generators]
        theta = torch.tensor(moves, dtype=images.dtype, device=images.device)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(framed, grid, padding_mode="border", align_corners=False)

    def _rolled(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        shifts = [_integers(generator, self.jitter) for generator in generators]
        return torch.stack([torch.roll(image, shift, (1, 2)) for image, shift in zip(images, shifts, strict=True)])

    def _movement(self, generator: torch.Generator, height: int, width: int) -> list[list[float]]:
        """Draw one movement, as the matrix by which `affine_grid` finds where an output's point comes from."""
        down, across = _integers(generator, self.jitter)
        turn, size = (2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1).tolist()
        angle = math.radians(turn * self.rotate)
        zoom = 1 / (1 + size * self.scale)
        side, x, y = 1.0, 0.0, 0.0
        if self.crop:
            cut, x, y = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            side = 1 - cut * self.crop
            x, y = ((2 * share - 1) * (1 - side) for share in (x, y))
        zoom *= side
        cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
        # Its coordinates go from -1 to 1 along either side, whatever their lengths.
        return [
            [cosine, -sine * height / width, x - 2 * across / width],
            [sine * width / height, cosine, y - 2 * down / height],
        ]


def _integers(generator: torch.Generator, largest: int) -> tuple[int, int]:
    down, across = torch.randint(-largest, largest + 1, (2,), generator=generator).tolist()
    return down, across
