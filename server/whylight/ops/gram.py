"""Gram matrices of features, and the loss that compares them with a style's; knows neither models nor optimisation.

The products are the library's: MKL and cuBLAS are not to be beaten by hand here. What is won lies around them: on the
CPU only the blocks on and above the diagonal are computed, and mirrored; what the gradient needs of the product is made
in one pass over ``[N, C, C]``, in place; the gradient takes one product where autograd, which cannot know that both
factors are the same, takes two and adds them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whylight.ops.native import CPU_NATIVE, CUDA_NATIVE

NORMALISATIONS = ("gatys", "lucid", "none")

_HALVES = (torch.float16, torch.bfloat16)
_BLOCKED_PRODUCTS = 1 << 22  # multiplications for one image, below which several small GEMMs cost more than they save


def gram(features: Tensor, normalisation: str = "gatys") -> Tensor:
    """Return the Gram matrix of each image's features: how much any two channels respond in the same places.

    With F the features of one image as ``[C, P]``, P positions, the result is ``s F F^T``:

    =======  =========================  ========================================================================
    none     s = 1                      G of Gatys, Ecker and Bethge, CVPR 2016, equation 3
    gatys    s = 1 / (2 C P)            the same, so scaled that squared differences add up to their layer loss
                                        E = 1 / (4 C^2 P^2) sum (G - A)^2, equation 4
    lucid    s = 1 / P                  the mean over positions, as lucid.optvis.style.gram_style
    =======  =========================  ========================================================================

    `features` is ``[N, C, *S]`` with 1 to 3 spatial dimensions, float16, bfloat16, float32 or float64, contiguous or
    channels_last without a copy (on the CPU, 16-bit features are converted). Returns ``[N, C, C]``, exactly symmetric,
    in float32, or float64 for float64: products are added and scaled in that type, so that float16 does not overflow.

    Differentiable, twice too, with one matrix product. How float32 is multiplied follows torch's settings (TF32).
    Repeats to the bit on one machine with one number of threads; on the CPU an image's bits do not depend on the batch
    beyond what MKL makes of where a matrix lies in memory, which was seen in float64 with odd C only.

    Raises ValueError for an unknown normalisation and RuntimeError for shapes or dtypes that do not fit.
    """
    _check(features, normalisation)
    result: Tensor = torch.ops.whylight.gram.default(features, normalisation)
    return result


def gram_loss(
    features: Tensor, target: Tensor, *, weights: Tensor | None = None, normalisation: str = "gatys"
) -> Tensor:
    """Return, for each image, the weighted squared distance of its Gram matrix to a target's.

    ``weights[n] * sum_ij (G_n - T_n)_ij^2`` with G as `gram` has it; `target` is ``[C, C]`` for all images or
    ``[N, C, C]``, usually a `gram` of a style's features with the same normalisation, and the loss of that same batch
    is then exactly 0. `weights` is ``[N]``, None for 1. Returns ``[N]``, float32, or float64 for float64 features.

    The gradient is one product, ``4 s weights[n] D F`` with D the symmetric part of G - T, which alone is kept for it
    (neither G nor T). The target has none: asking for it is an error. Twice differentiable in the features and weights.

    Without a gradient, large images of a batch are taken one by one, so that no more than one ``[C, C]`` is held. How
    fast it is beside plain torch, with the gradient and without, is in docs/explanation/operators.md.

    Raises ValueError for an unknown normalisation or a target that requires a gradient, and RuntimeError for shapes,
    dtypes or devices that do not fit.
    """
    _check(features, normalisation)
    _check_target(features, target, weights)
    if target.requires_grad:
        raise ValueError("gram_loss: target must not require a gradient, since none is computed; detach it")
    target = target.to(_result_dtype(features))
    if features.requires_grad and torch.is_grad_enabled():
        loss: Tensor = torch.ops.whylight.gram_loss.default(features, target, normalisation)[0]
    else:
        loss = torch.ops.whylight.gram_distance.default(features, target, normalisation)
    return loss if weights is None else loss * weights.to(loss.dtype)


def gram_reference(features: Tensor, normalisation: str = "gatys") -> Tensor:
    """Compute `gram` in plain torch, gradient included."""
    _check(features, normalisation)
    flat = features.flatten(2).to(_result_dtype(features))
    return torch.einsum("nip,njp->nij", flat, flat) * _scale(features, normalisation)


def gram_loss_reference(
    features: Tensor, target: Tensor, *, weights: Tensor | None = None, normalisation: str = "gatys"
) -> Tensor:
    """Compute `gram_loss` in plain torch, gradient included."""
    difference = gram_reference(features, normalisation) - target.to(_result_dtype(features))
    _check_target(features, target, weights)
    loss = difference.square().sum((1, 2))
    return loss if weights is None else loss * weights.to(loss.dtype)


def _result_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype is torch.float64 else torch.float32


def _scale(features: Tensor, normalisation: str) -> float:
    """Return the factor of F F^T, 1 where there is nothing to add up."""
    channels, positions = features.shape[1], features.shape[2:].numel()
    divisor = {"gatys": 2 * channels * positions, "lucid": positions, "none": 1}[normalisation]
    return 1 / max(divisor, 1)


def _products(features: Tensor, scale: float) -> Tensor:
    """Return ``scale * F F^T`` as ``[N, C, C]``; on the CPU, what lies below the diagonal may be anything."""
    flat = features.flatten(2)
    if features.is_cuda and features.dtype in _HALVES:
        return torch.bmm(flat, flat.mT, out_dtype=torch.float32).mul_(scale)
    flat = flat.to(_result_dtype(features))
    images, channels = flat.shape[:2]
    none = flat.new_zeros(())
    if not _is_large(flat):
        return torch.baddbmm(none.expand(images, channels, channels), flat, flat.mT, beta=0, alpha=scale)
    result = flat.new_empty(images, channels, channels)
    # Few rows waste little below the diagonal, many are multiplied faster; chosen by measurement, by C alone.
    rows = min(128, max(32, channels // 8 // 32 * 32))
    if torch.get_num_threads() > 1:
        # Every product waits for its slowest thread: at best, on two busy cores, four took less than a hundredth of the
        # time of 16 (2048 x 49), and one, where few positions make writing most of the work, a quarter of that of four
        # in the median.
        rows = -(-channels // 128) * 32 if flat.shape[2] >= 128 else channels
    for image, out in zip(flat, result, strict=True):
        for row in range(0, channels, rows):
            block = out[row : row + rows, row:]
            torch.addmm(none, image[row : row + rows], image[row:].mT, beta=0, alpha=scale, out=block)
    return result


def _is_large(features: Tensor) -> bool:
    """Say whether images are to be taken one by one, and a product in blocks: on the CPU, where it costs less."""
    channels, positions = features.shape[1], features.shape[2:].numel()
    return features.is_cpu and channels * channels * positions >= _BLOCKED_PRODUCTS


def _is_native(products: Tensor) -> bool:
    """Say whether a kernel takes these; the CUDA kernels compute in float32 only."""
    if products.is_cpu:
        return CPU_NATIVE
    return CUDA_NATIVE and products.is_cuda and products.dtype is torch.float32


def _mirrored(products: Tensor) -> Tensor:
    if _is_native(products):
        torch.ops.whylight.gram_mirror_.default(products)
        return products
    return products.triu() + products.triu(1).mT


def _difference(products: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of squares ``[N]`` of the differences to the targets, and the symmetric part of each."""
    if _is_native(products):
        squares: Tensor = torch.ops.whylight.gram_difference_.default(products, target)
        return squares, products
    difference = _mirrored(products) - target
    return difference.square().sum((1, 2)), (difference + difference.mT) / 2


def _times(symmetric: Tensor, features: Tensor, scales: Tensor | None = None) -> Tensor:
    """Return ``scales * symmetric @ F`` in the shape, dtype and layout of `features`, added up in float32 or more.

    `symmetric` is ``[N, C, C]``, `scales` ``[N]``.
    """
    flat = features.flatten(2)
    channels, positions = flat.shape[1:]
    factor = None if scales is None else scales[:, None, None]
    if factor is not None and channels <= positions:  # the smaller of the two is scaled
        symmetric, factor = symmetric * factor, None
    half = features.is_cuda and features.dtype in _HALVES and flat.numel() > 0
    if half:
        # float16 has neither the range of a squared feature nor that of a small gradient.
        largest = symmetric.detach().abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        left, right = (symmetric / largest).to(features.dtype), flat
        factor = largest if factor is None else largest * factor
    else:
        left, right = symmetric, flat.to(symmetric.dtype)
    # A product lies in the order of its dimensions, so that of channels_last features is made turned.
    turned = flat.stride(1) == 1 and channels > 1
    if turned:
        left, right = right.mT, left
    product = torch.bmm(left, right, out_dtype=torch.float32) if half else torch.bmm(left, right)
    if factor is not None:
        product = product * factor
    return (product.mT if turned else product).reshape(features.shape).to(features.dtype)


@torch.library.custom_op("whylight::gram", mutates_args=())
def _gram(features: Tensor, normalisation: str) -> Tensor:
    return _mirrored(_products(features, _scale(features, normalisation)))


@_gram.register_fake
def _(features: Tensor, normalisation: str) -> Tensor:
    images, channels = features.shape[:2]
    return features.new_empty((images, channels, channels), dtype=_result_dtype(features))


def _keep_features(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.normalisation = inputs[1]


def _gram_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (features,) = ctx.saved_tensors
    return _times((gradient + gradient.mT) * _scale(features, ctx.normalisation), features), None


_gram.register_autograd(_gram_backward, setup_context=_keep_features)


@torch.library.custom_op("whylight::gram_distance", mutates_args=())
def _gram_distance(features: Tensor, target: Tensor, normalisation: str) -> Tensor:
    if _is_large(features) and len(features) > 1:  # the passes over an image's matrix find it in the cache
        targets = target.expand(len(features), *target.shape[-2:])
        each = (_gram_distance(f[None], t, normalisation) for f, t in zip(features, targets, strict=True))
        return torch.cat(list(each))
    products = _products(features, _scale(features, normalisation))
    if not products.is_cpu:
        return _difference(products, target)[0]
    # Row by row, so that the order of the sum does not depend on the threads.
    return _mirrored(products).sub_(target).square_().sum(2).sum(1)


@_gram_distance.register_fake
def _(features: Tensor, target: Tensor, normalisation: str) -> Tensor:
    return features.new_empty((features.shape[0],), dtype=_result_dtype(features))


@torch.library.custom_op("whylight::gram_loss", mutates_args=())
def _gram_loss(features: Tensor, target: Tensor, normalisation: str) -> tuple[Tensor, Tensor]:
    return _difference(_products(features, _scale(features, normalisation)), target)


@_gram_loss.register_fake
def _(features: Tensor, target: Tensor, normalisation: str) -> tuple[Tensor, Tensor]:
    images, channels = features.shape[:2]
    dtype = _result_dtype(features)
    return features.new_empty((images,), dtype=dtype), features.new_empty((images, channels, channels), dtype=dtype)


def _keep_difference(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.normalisation = inputs[2]
    ctx.set_materialize_grads(False)


def _gram_loss_backward(
    ctx: Any, of_loss: Tensor | None, of_difference: Tensor | None
) -> tuple[Tensor | None, None, None]:
    """Return the gradient of the features; that of the difference is asked for only when differentiating twice."""
    features, difference = ctx.saved_tensors
    scale = _scale(features, ctx.normalisation)
    gradient = None if of_loss is None else _times(difference, features, 4 * scale * of_loss)
    if of_difference is not None:
        more = _times((of_difference + of_difference.mT) * scale, features)
        gradient = more if gradient is None else gradient + more
    return gradient, None, None


_gram_loss.register_autograd(_gram_loss_backward, setup_context=_keep_difference)


def _check(features: Tensor, normalisation: str) -> None:
    """Raise for features or a normalisation that no Gram matrix is made of."""
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"unknown normalisation {normalisation!r}; known: {', '.join(NORMALISATIONS)}")
    if not 3 <= features.dim() <= 5:
        raise RuntimeError(f"gram: features must be [N, C, *S] with 1 to 3 spatial dimensions, got {features.dim()}-D")
    if features.dtype not in (*_HALVES, torch.float32, torch.float64):
        raise RuntimeError(f"gram: features must be float16, bfloat16, float32 or float64, got {features.dtype}")


def _check_target(features: Tensor, target: Tensor, weights: Tensor | None) -> None:
    """Raise for a target or weights that do not fit the features."""
    images, channels = features.shape[:2]
    if tuple(target.shape) not in ((channels, channels), (images, channels, channels)):
        raise RuntimeError(
            f"gram_loss: target {list(target.shape)} must be [C, C] or [N, C, C] for features {list(features.shape)}"
        )
    if not target.is_floating_point():
        raise RuntimeError(f"gram_loss: target must be of a floating type, got {target.dtype}")
    if weights is not None and tuple(weights.shape) != (images,):
        raise RuntimeError(f"gram_loss: weights {list(weights.shape)} must be [N], one for each of {images} images")
    for name, tensor in (("target", target), ("weights", weights)):
        if tensor is not None and tensor.device != features.device:
            raise RuntimeError(f"gram_loss: {name} is on {tensor.device}, features are on {features.device}")
