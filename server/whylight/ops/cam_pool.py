"""Class activation maps from activations and gradients, in one pass over both; knows neither models nor pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from whylight.ops.native import CPU_NATIVE, CUDA_NATIVE

SCHEMES = ("grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam")

_CODES = {scheme: code for code, scheme in enumerate(SCHEMES)}


def cam_pool(
    activations: Tensor,
    gradients: Tensor,
    scheme: str,
    rows: Sequence[int] | None = None,
    *,
    eps: float = 0.0,
) -> Tensor:
    """Return the raw class activation map of each target: a sum over channels, without a final ReLU.

    With A an activation, g the gradient of the target with respect to it, S the sum of A over space, per channel k:

    ============  ==================================================================================================
    grad-cam      sum_k w A, w = mean g                              (Selvaraju et al., ICCV 2017)
    grad-cam++    sum_k w A, w = sum relu(g) a, a = g^2 / (2 g^2 + S g^3 + eps) where g != 0 and that is not a
                  division by zero, else 0                           (Chattopadhay et al., WACV 2018)
    xgrad-cam     sum_k w A, w = sum(g A) / (S + eps), 0 where that is a division by zero  (Fu et al., BMVC 2020)
    layer-cam     sum_k relu(g) A                                    (Jiang et al., TIP 2021)
    hires-cam     sum_k g A                                          (Draelos and Carin, 2020)
    ============  ==================================================================================================

    `activations` is ``[N, C, *S]`` with 1 to 3 spatial dimensions, `gradients` ``[M, C, *S]``; float16, bfloat16,
    float32 or float64, contiguous, channels_last or expanded, without a copy. Gradients that are expanded over all of
    space (stride 0: the closed form of a head that pools first) are never materialised. `rows[m]` is the input that
    target m belongs to, in non-decreasing order, so that the activations of an input with many targets are read once;
    None is one target per input.

    Returns ``[M, *S]`` in float32, or float64 if either input is. NaN and infinities propagate. In the native kernels,
    a row's bits depend on neither N, M nor the number of threads, and repeat from run to run.

    Raises ValueError for an unknown scheme and RuntimeError for shapes, dtypes or rows that do not fit.
    """
    code = _CODES.get(scheme)
    if code is None:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    if _is_native(activations, gradients):
        result: Tensor = _operator(activations, gradients, code, rows, eps)
        return result
    return cam_pool_reference(activations, gradients, scheme, rows, eps=eps)


def _is_native(activations: Tensor, gradients: Tensor) -> bool:
    """Say whether a kernel takes these; the CUDA kernels compute in float32 only."""
    if activations.is_cpu:
        return CPU_NATIVE
    return (
        CUDA_NATIVE
        and activations.is_cuda
        and activations.dtype is not torch.float64
        and gradients.dtype is not torch.float64
    )


def cam_pool_reference(
    activations: Tensor,
    gradients: Tensor,
    scheme: str,
    rows: Sequence[int] | None = None,
    *,
    eps: float = 0.0,
) -> Tensor:
    """Compute `cam_pool` in plain torch: the same numbers, in more passes and more memory."""
    _check(activations, gradients, rows)
    double = torch.float64 in (activations.dtype, gradients.dtype)
    dtype = torch.float64 if double else torch.float32
    space = activations.shape[2:]
    positions = space.numel()
    a = activations.to(dtype).flatten(2)
    if rows is not None:
        a = a[list(rows)]
    if positions and not any(gradients.stride()[2:]):
        for dimension in range(2, gradients.dim()):
            gradients = gradients.narrow(dimension, 0, 1)
    g = gradients.to(dtype).flatten(2)
    if scheme == "layer-cam":
        weights = g.relu()
    elif scheme == "hires-cam":
        weights = g
    elif scheme == "grad-cam":
        weights = g.mean(2, keepdim=True)
    elif scheme == "grad-cam++":
        total = a.sum(2, keepdim=True)
        # Without eps, g^2 cancels; cancelling it first keeps gradients whose square underflows.
        numerator = g.square() if eps else torch.ones_like(g)
        denominator = 2 * g.square() + total * g * g.square() + eps if eps else 2 + total * g
        alpha = torch.where((g != 0) & (denominator != 0), numerator / denominator, torch.zeros_like(denominator))
        weights = (g.relu() * alpha).sum(2, keepdim=True) * (positions // max(g.shape[2], 1))
    elif scheme == "xgrad-cam":
        denominator = a.sum(2, keepdim=True) + eps
        weights = torch.where(
            denominator != 0, (g * a).sum(2, keepdim=True) / denominator, torch.zeros_like(denominator)
        )
    else:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    return (weights * a).sum(1).reshape(gradients.shape[0], *space)


def _check(activations: Tensor, gradients: Tensor, rows: Sequence[int] | None) -> None:
    """Raise for what the kernels refuse, in their words."""
    inputs, targets = activations.shape[0] if activations.dim() else 0, gradients.shape[0] if gradients.dim() else 0
    torch._check(
        3 <= activations.dim() <= 5,
        lambda: f"cam_pool: activations must be [N, C, *S] with 1 to 3 spatial dimensions, got {activations.dim()}-D",
    )
    torch._check(
        gradients.shape[1:] == activations.shape[1:],
        lambda: (
            f"cam_pool: gradients {list(gradients.shape)} must agree with activations {list(activations.shape)} "
            "after the first dimension"
        ),
    )
    torch._check(
        gradients.device == activations.device,
        lambda: f"cam_pool: activations are on {activations.device}, gradients on {gradients.device}",
    )
    for name, tensor in (("activations", activations), ("gradients", gradients)):
        torch._check(
            tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64),
            lambda name=name, tensor=tensor: (  # type: ignore[misc]
                f"cam_pool: {name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}"
            ),
        )
    if rows is None:
        torch._check(
            inputs == targets,
            lambda: f"cam_pool: {targets} targets for {inputs} inputs need rows, which say whose each one is",
        )
        return
    torch._check(
        len(rows) == targets, lambda: f"cam_pool: rows must have one entry per target: {len(rows)} for {targets}"
    )
    torch._check(
        all(0 <= row < inputs for row in rows),
        lambda: f"cam_pool: rows must be from 0 to {inputs - 1}, got {list(rows)}",
    )
    torch._check(sorted(rows) == list(rows), lambda: f"cam_pool: rows must not decrease, got {list(rows)}")


if CPU_NATIVE:
    _operator = torch.ops.whylight.cam_pool.default

    @torch.library.register_fake("whylight::cam_pool")  # type: ignore[untyped-decorator]
    def _(activations: Tensor, gradients: Tensor, scheme: int, rows: Sequence[int] | None, eps: float) -> Tensor:
        _check(activations, gradients, rows)
        double = torch.float64 in (activations.dtype, gradients.dtype)
        shape = (gradients.shape[0], *activations.shape[2:])
        return activations.new_empty(shape, dtype=torch.float64 if double else torch.float32)
