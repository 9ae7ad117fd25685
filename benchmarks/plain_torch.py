"""What the operators compute, in plain torch as libraries and their users write it; knows no operator of ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM."""
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def grad_cam_product(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM as a matrix product."""
    return torch.bmm(gradients.mean((2, 3))[:, None], activations.flatten(2)).view(-1, *activations.shape[2:])


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++ as pytorch-grad-cam writes it."""
    squares = gradients**2
    total = activations.sum((2, 3), keepdim=True)
    alpha = squares / (2 * squares + total * gradients**3 + 1e-6)
    alpha = torch.where(gradients != 0, alpha, torch.zeros_like(alpha))
    return ((gradients.relu() * alpha).sum((2, 3), keepdim=True) * activations).sum(1)


def xgrad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """XGrad-CAM as pytorch-grad-cam writes it."""
    weights = (gradients * activations / (activations.sum((2, 3), keepdim=True) + 1e-7)).sum((2, 3), keepdim=True)
    return (weights * activations).sum(1)


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Layer-CAM."""
    return (gradients.relu() * activations).sum(1)


def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """HiRes-CAM."""
    return (gradients * activations).sum(1)


def grad_cam_of_targets(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM of several targets of each input, whose gradients follow each other."""
    targets = gradients.unflatten(0, (len(activations), -1))
    return (targets.mean((3, 4), keepdim=True) * activations[:, None]).sum(2).flatten(0, 1)


def _normalised(maps: Tensor, size: tuple[int, int]) -> Tensor:
    maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


def render_float(maps: Tensor) -> Tensor:
    """Resize to 224 x 224 and normalise."""
    return _normalised(maps, (224, 224))


def render_uint8(maps: Tensor) -> Tensor:
    """Resize to 224 x 224, normalise and quantise."""
    return (255 * _normalised(maps, (224, 224))).to(torch.uint8)


def overlay(maps: Tensor, images: Tensor, colours: Tensor) -> Tensor:
    """Resize, normalise, colour and blend, a step at a time."""
    painted = colours[(255 * _normalised(maps, (images.shape[1], images.shape[2]))).long()]
    return (0.5 * painted + 0.5 * images).round().to(torch.uint8)


def total_variation(beta: float) -> Callable[[Tensor], Tensor]:
    """Total variation as it is usually written, without the differences of the last row and column."""

    def loss(image: Tensor) -> Tensor:
        here = image[:, :, :-1, :-1]
        squares = (image[:, :, :-1, 1:] - here).square() + (image[:, :, 1:, :-1] - here).square()
        return (squares if beta == 2 else squares ** (beta / 2)).sum((1, 2, 3))

    return loss


def gram(features: Tensor) -> Tensor:
    """Gram matrices, divided by the number of positions."""
    flat = features.flatten(2)
    return torch.bmm(flat, flat.mT) / flat.shape[2]


def product(features: Tensor) -> Tensor:
    """What the library takes for the product of a Gram matrix alone."""
    flat = features.flatten(2)
    return torch.bmm(flat, flat.mT)


def gram_loss(features: Tensor, target: Tensor) -> Tensor:
    """The style loss as style transfer programs write it."""
    return ((gram(features) - target) ** 2).sum((1, 2))


def with_gradient(loss: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `loss` with autograd's gradient for its first argument."""

    def run(first: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        values = loss(first, *others)
        return values, torch.autograd.grad(values.sum(), first)[0]

    return run
