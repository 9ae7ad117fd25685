"""Total variation of images and its gradient, in one pass each; knows neither models nor what it regularises."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from whylight.ops.native import CPU_NATIVE, CUDA_NATIVE

Mode = Literal["isotropic", "anisotropic"]

_MODES = ("isotropic", "anisotropic")
_LARGEST_BETA = 1024.0


def tv_loss(image: Tensor, beta: float = 2.0, *, mode: Mode = "isotropic", eps: float = 0.0) -> Tensor:
    """Return the total variation of each image: how rough it is, summed over its pixels and channels.

    With dx the difference of a pixel's right neighbour and it, dy of the one below and it, and 0 where there is no such
    neighbour (the last column still has its dy, the last row its dx):

    ===========  ==============================================================================================
    isotropic    sum (dx^2 + dy^2)^(beta / 2)      (Mahendran and Vedaldi, CVPR 2015)
    anisotropic  sum |dx|^beta + |dy|^beta         (at beta 1 that of Rudin, Osher and Fatemi, as kornia has it)
    ===========  ==============================================================================================

    `image` is ``[N, C, H, W]``, float16, bfloat16, float32 or float64, contiguous, channels_last or a part of such a
    one. Returns ``[N]`` in float32, float64 for float64; divide by C H W for a mean. `beta` is from 1 to 1024.

    Differentiable once. Where both differences of a pixel are 0 its gradient is 0, also for `beta` below 2, where the
    power's derivative has no limit: a subgradient, and never NaN. So `eps` may stay 0; a positive one smooths, to
    ``(s + eps)^(beta / 2) - eps^(beta / 2)`` of each squared difference s, so that a constant image still has 0. A
    squared difference below the smallest normal number (differences of 1e-19 in float32) counts as 0 unless `beta` is 2
    (or 1 and anisotropic).

    NaN and infinities propagate. In the native kernels, an image's bits depend on neither N nor the number of threads,
    and repeat from run to run; powers other than 1 and 2 have a relative error below 3e-7 in float32.

    Raises ValueError for an unknown mode and RuntimeError for an image, `beta` or `eps` that do not fit.
    """
    isotropic = _is_isotropic(mode)
    if not _is_native(image):
        return tv_loss_reference(image, beta, mode=mode, eps=eps)
    operator = _differentiable if image.requires_grad and torch.is_grad_enabled() else _raw
    result: Tensor = operator(image, beta, eps, isotropic)
    return result


def tv_loss_with_gradient(
    image: Tensor, beta: float = 2.0, *, mode: Mode = "isotropic", eps: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return `tv_loss` ``[N]`` and its gradient ``[N, C, H, W]``, read in one pass: for a loop that optimises an image.

    The gradient has the image's dtype and order (contiguous or channels_last) and is that of the sum of the losses:
    images do not meet, so it is each one's own. Neither result carries a graph.

    Raises as `tv_loss` does.
    """
    isotropic = _is_isotropic(mode)
    if not _is_native(image):
        return tv_loss_with_gradient_reference(image, beta, mode=mode, eps=eps)
    result: tuple[Tensor, Tensor] = _with_gradient(image.detach(), beta, eps, isotropic)
    return result


def tv_loss_reference(image: Tensor, beta: float = 2.0, *, mode: Mode = "isotropic", eps: float = 0.0) -> Tensor:
    """Compute `tv_loss` in plain torch, which also differentiates it."""
    isotropic = _is_isotropic(mode)
    _check("tv_loss", image, beta, eps)
    image = image.to(_computed(image))
    if image.numel() == 0:
        return image.flatten(1).sum(1)
    dx, dy = _differences(image)
    if isotropic:
        terms = _term(dx.square() + dy.square(), beta, eps)
    else:
        terms = _term(dx.square(), beta, eps) + _term(dy.square(), beta, eps)
    return terms.sum((1, 2, 3))


def tv_loss_with_gradient_reference(
    image: Tensor, beta: float = 2.0, *, mode: Mode = "isotropic", eps: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Compute `tv_loss_with_gradient` in plain torch, the gradient by its formula."""
    image = image.detach()
    loss = tv_loss_reference(image, beta, mode=mode, eps=eps)
    gradient = _empty_gradient(image)
    if image.numel() == 0:
        return loss, gradient
    dx, dy = _differences(image.to(_computed(image)))
    if _is_isotropic(mode):
        slope = _slope(dx.square() + dy.square(), beta, eps)
        across, down = slope * dx, slope * dy
    else:
        across, down = _slope(dx.square(), beta, eps) * dx, _slope(dy.square(), beta, eps) * dy
    left, above = F.pad(across, (1, 0))[..., :-1], F.pad(down, (0, 0, 1, 0))[..., :-1, :]
    return loss, gradient.copy_((left - across) + (above - down))


def _is_isotropic(mode: str) -> bool:
    if mode not in _MODES:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(_MODES)}")
    return mode == "isotropic"


def _is_native(image: Tensor) -> bool:
    """Say whether a kernel takes this; the CUDA kernels compute in float32 only."""
    if image.is_cpu:
        return CPU_NATIVE
    return CUDA_NATIVE and image.is_cuda and image.dtype is not torch.float64


def _computed(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype is torch.float64 else torch.float32


def _differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the difference of each pixel's right neighbour and it, and of the one below and it."""
    return F.pad(image.diff(dim=3), (0, 1)), F.pad(image.diff(dim=2), (0, 0, 0, 1))


def _term(square: Tensor, beta: float, eps: float) -> Tensor:
    """Return ``(square + eps)^(beta / 2) - eps^(beta / 2)``, with the gradient 0 where the square is 0."""
    if beta == 2:
        return square
    safe = torch.where(square != 0, square + eps, torch.ones_like(square))
    return torch.where(square != 0, safe ** (beta / 2) - eps ** (beta / 2), torch.zeros_like(square))


def _slope(square: Tensor, beta: float, eps: float) -> Tensor:
    """Return twice the derivative of `_term`."""
    safe = torch.where(square != 0, square + eps, torch.ones_like(square))
    return torch.where(square != 0, beta * safe ** (beta / 2 - 1), torch.zeros_like(square))


def _channels_are_neighbours(image: Tensor, dimension: int) -> bool:
    """Say whether a pixel's channels are, and right behind them those of the next pixel along `dimension`."""
    return image.stride(1) == 1 and image.stride(dimension) == image.shape[1]


def _is_channels_last(image: Tensor) -> bool:
    """Say whether the kernels walk the image as channels last; a column is a row to them."""
    dimension = 3 if image.shape[3] != 1 else 2
    return (
        image.numel() > 0
        and image.shape[dimension] != 1
        and image.stride(dimension) != 1
        and _channels_are_neighbours(image, dimension)
    )


def _empty_gradient(image: Tensor) -> Tensor:
    order = torch.channels_last if _is_channels_last(image) else torch.contiguous_format
    return torch.empty(image.shape, dtype=image.dtype, device=image.device, memory_format=order)


def _check(operator: str, image: Tensor, beta: float, eps: float) -> None:
    """Raise for what the kernels refuse, in their words."""
    torch._check(image.dim() == 4, lambda: f"{operator}: image must be [N, C, H, W], got {image.dim()}-D")
    torch._check(
        image.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64),
        lambda: f"{operator}: image must be float16, bfloat16, float32 or float64, got {image.dtype}",
    )
    torch._check(
        1 <= beta <= _LARGEST_BETA, lambda: f"{operator}: beta must be from 1 to {_LARGEST_BETA:.0f}, got {beta}"
    )
    torch._check(0 <= eps < float("inf"), lambda: f"{operator}: eps must be finite and not negative, got {eps}")
    torch._check(
        image.numel() == 0 or image.shape[3] == 1 or image.stride(3) == 1 or _channels_are_neighbours(image, 3),
        lambda: (
            f"{operator}: image must be contiguous or channels_last, or a part of such a one, got strides "
            f"{tuple(image.stride())} for {list(image.shape)}; image.contiguous() is"
        ),
    )


def _computed_loss(operator: str, image: Tensor, beta: float, eps: float) -> Tensor:
    _check(operator, image, beta, eps)
    return image.new_empty(image.shape[0], dtype=_computed(image))


def _remember(ctx: Any, inputs: tuple[Tensor, float, float, bool], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.constants = inputs[1:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    (image,) = ctx.saved_tensors
    return torch.ops.whylight.tv_loss_backward.default(grad, image, *ctx.constants), None, None, None


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("tv_loss: second derivatives are not offered; tv_loss_reference has them")


if CPU_NATIVE:
    _differentiable = torch.ops.whylight.tv_loss.default
    _raw = torch.ops.whylight.tv_loss_raw.default
    _with_gradient = torch.ops.whylight.tv_loss_with_gradient.default

    @torch.library.register_fake("whylight::tv_loss")  # type: ignore[untyped-decorator]
    def _(image: Tensor, beta: float, eps: float, isotropic: bool) -> Tensor:
        return _computed_loss("tv_loss", image, beta, eps)

    @torch.library.register_fake("whylight::tv_loss_raw")  # type: ignore[untyped-decorator]
    def _(image: Tensor, beta: float, eps: float, isotropic: bool) -> Tensor:
        return _computed_loss("tv_loss", image, beta, eps)

    @torch.library.register_fake("whylight::tv_loss_backward")  # type: ignore[untyped-decorator]
    def _(grad: Tensor, image: Tensor, beta: float, eps: float, isotropic: bool) -> Tensor:
        _check("tv_loss_backward", image, beta, eps)
        return _empty_gradient(image)

    @torch.library.register_fake("whylight::tv_loss_with_gradient")  # type: ignore[untyped-decorator]
    def _(image: Tensor, beta: float, eps: float, isotropic: bool) -> tuple[Tensor, Tensor]:
        return _computed_loss("tv_loss_with_gradient", image, beta, eps), _empty_gradient(image)

    torch.library.register_autograd("whylight::tv_loss", _backward, setup_context=_remember)
    torch.library.register_autograd(
        "whylight::tv_loss_backward", _refuse, setup_context=lambda ctx, inputs, output: None
    )
