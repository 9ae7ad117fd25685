"""Pictures that stand for "nothing to see", each defined once for methods and metrics; knows neither of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from whylight.models.transform import Transform

BaselineKind: TypeAlias = Literal["zero", "black", "grey", "white", "mean", "blur"]

BLUR = 0.1
"""Deviation of the blur as a part of the input's shorter side: 22 pixels of 224 leave patches of colour, no object."""

BASELINES: Mapping[BaselineKind, str] = {
    "zero": "'zero', 0 in the units that the network sees, often the mean colour of its training data",
    "black": "'black', as the picture was before it was normalised",
    "grey": "'grey', the middle between black and white",
    "white": "'white', as the picture was before it was normalised",
    "mean": "'mean', the input's own mean colour",
    "blur": "'blur', the input blurred until only patches of colour are left (Gaussian, deviation a tenth of the "
    "shorter side, cut off at the edges and normalised again)",
}
"""What each kind is, for the descriptions of options."""


def describe_baselines(*kinds: BaselineKind) -> str:
    """Return what some kinds are, for the description of an option: a list that ends without a full stop."""
    return "; ".join(BASELINES[kind] for kind in kinds)


def baseline(kind: BaselineKind, inputs: Tensor, transform: Transform) -> Tensor:
    """Return the baseline of each input `[N, C, H, W]`, in the normalised units of `transform` and of the same shape.

    Of one colour it is expanded: all its pixels may lie in one place of memory. Each input gets the same bits alone and
    in any batch.
    """
    import torch

    if kind in _SHADES:
        shade = inputs.new_full((1, inputs.shape[1], 1, 1), _SHADES[kind])
        return transform.from_unit(shade).expand_as(inputs)
    if kind == "zero":
        return inputs.new_zeros(()).expand_as(inputs)
    # One by one: a sum over a whole batch may be shared out to threads in another way, and then has other bits.
    make: Callable[[Tensor], Tensor] = _blurred if kind == "blur" else _mean
    return torch.stack([make(input) for input in inputs]).expand_as(inputs)


_SHADES: Mapping[str, float] = {"black": 0.0, "grey": 0.5, "white": 1.0}


def _mean(input: Tensor) -> Tensor:
    return input.mean((1, 2), keepdim=True)


def _blurred(input: Tensor) -> Tensor:
    height, width = input.shape[1:]
    deviation = BLUR * min(height, width)
    down, across = (_kernel(length, deviation, input) for length in (height, width))
    return down @ input @ across.T


def _kernel(length: int, deviation: float, like: Tensor) -> Tensor:
    """Return the matrix that blurs along one dimension, `[length, length]`."""
    import torch

    places = torch.arange(length, dtype=like.dtype, device=like.device)
    weights = torch.exp(-0.5 * ((places[:, None] - places[None, :]) / deviation) ** 2)
    return weights / weights.sum(1, keepdim=True)
