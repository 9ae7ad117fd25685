"""What is done to an image between steps: blurring, blanking pixels that do little, keeping near; knows no model.

Blurring and both clippings are those of Yosinski et al., Understanding Neural Networks Through Deep Visualization, ICML
workshop 2015, section 3.2, of which the fourth, L2 decay, is the term `whylight.synthesis.L2`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from whylight.synthesis.term import per_image


@dataclass(frozen=True)
class Operator(abc.ABC):
    """Changes images at every `period`-th step."""

    period: int = 1

    @abc.abstractmethod
    def apply(self, images: Tensor, gradients: Tensor) -> Tensor:
        """Return the images `[B, C, H, W]` changed; `gradients` are those of the loss with respect to them."""

    def is_due(self, step: int) -> bool:
        """Return whether it is applied behind `step` (from 0)."""
        return (step + 1) % self.period == 0


@dataclass(frozen=True)
class GaussianBlur(Operator):
    """Blurs with a Gaussian of `sigma` pixels: takes away the high frequencies that gradients bring."""

    sigma: float = 0.5

    def apply(self, images: Tensor, gradients: Tensor) -> Tensor:
        """Return the blurred images; the edges are reflected."""
        radius = max(1, round(3 * self.sigma))
        radius = min(radius, min(images.shape[2:]) - 1)
        return torch.cat(
            [gaussian_blur(image, [2 * radius + 1] * 2, [self.sigma] * 2) for image in torch.split(images, 1)]
        )


@dataclass(frozen=True)
class ClipSmallNorm(Operator):
    """Sets pixels to `blank` whose norm over the channels, measured from there, is among the lowest `share`."""

    share: float = 0.1
    blank: float = 0.5

    def apply(self, images: Tensor, gradients: Tensor) -> Tensor:
        """Return the images, the weakest pixels blanked."""
        return _blank_lowest(images, (images - self.blank).square().sum(1), self.share, self.blank)


@dataclass(frozen=True)
class ClipSmallContribution(Operator):
    """Sets pixels to `blank` that, to first order, change the loss least: the lowest `share` of `|sum_c x_c g_c|`."""

    share: float = 0.1
    blank: float = 0.5

    def apply(self, images: Tensor, gradients: Tensor) -> Tensor:
        """Return the images, the pixels that contribute least blanked."""
        return _blank_lowest(images, ((images - self.blank) * gradients).sum(1).abs(), self.share, self.blank)


@dataclass(frozen=True)
class StayNear(Operator):
    """Brings images back that are further than `radius` from a reference `[B, C, H, W]`: the nearest point that is not.

    The distance is Euclidean, over all pixels and channels, 0 black and 1 white.
    """

    reference: Tensor = field(default_factory=lambda: torch.empty(0))
    radius: float = 1.0

    def apply(self, images: Tensor, gradients: Tensor) -> Tensor:
        """Return the images, each within its ball."""
        change = images - self.reference
        lengths = per_image(change.square()).sqrt().clamp_min(1e-12)
        return self.reference + change * (self.radius / lengths).clamp_max(1.0)[:, None, None, None]


def _blank_lowest(images: Tensor, strength: Tensor, share: float, blank: float) -> Tensor:
    """Blank just that share of each image's pixels, the earlier of equal ones."""
    count = int(share * strength[0].numel())
    if count == 0:
        return images
    lowest = strength.flatten(1).argsort(dim=1, stable=True)[:, :count]
    mask = torch.zeros_like(strength.flatten(1), dtype=torch.bool).scatter_(1, lowest, True)
    return images.masked_fill(mask.view_as(strength)[:, None], blank)
