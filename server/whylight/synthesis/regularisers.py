"""Terms that judge an image by itself: L2, L1, total variation; know no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from whylight import ops
from whylight.synthesis.term import Sight, Term, per_image


@dataclass(frozen=True)
class L2(Term):
    """Mean squared distance of the pixels from `centre` (0 black, 1 white): keeps single pixels from great values.

    Simonyan et al., ICLR workshop 2014, with the mean image as centre.
    """

    name: ClassVar[str] = "l2"
    of_images: ClassVar[bool] = True
    centre: float = 0.5

    def loss(self, sight: Sight) -> Tensor:
        """Return the mean square."""
        return per_image((sight.images - self.centre).square()) / sight.images[0].numel()


@dataclass(frozen=True)
class L1(Term):
    """Mean distance of the pixels from `centre`: how much ink an image takes, so that most of it stays blank."""

    name: ClassVar[str] = "l1"
    of_images: ClassVar[bool] = True
    centre: float = 0.0

    def loss(self, sight: Sight) -> Tensor:
        """Return the mean magnitude."""
        return per_image((sight.images - self.centre).abs()) / sight.images[0].numel()


@dataclass(frozen=True)
class ImageDistance(Term):
    """Mean squared distance of the pixels from those of a reference `[B, C, H, W]`."""

    name: ClassVar[str] = "distance"
    of_images: ClassVar[bool] = True
    reference: Tensor = field(default_factory=lambda: torch.empty(0))

    def loss(self, sight: Sight) -> Tensor:
        """Return the mean square."""
        reference = self.reference[sight.rows.start : sight.rows.stop]
        return per_image((sight.images - reference).square()) / sight.images[0].numel()


@dataclass(frozen=True)
class TotalVariation(Term):
    """Mean over the pixels of `(dx^2 + dy^2)^(beta / 2)`: how rough an image is.

    Mahendran and Vedaldi, CVPR 2015, equation 5; `whylight.ops.tv_loss`.
    """

    name: ClassVar[str] = "total_variation"
    of_images: ClassVar[bool] = True
    beta: float = 2.0

    def loss(self, sight: Sight) -> Tensor:
        """Return the mean total variation."""
        return ops.tv_loss(sight.images, self.beta) / sight.images[0].numel()
