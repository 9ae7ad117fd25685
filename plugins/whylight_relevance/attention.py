"""Relevance through products of two signals, softmax, attention and layer normalisation: the rules of AttnLRP.

Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers, ICML 2024. It knows
functions of tensors, no run and no layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from whylight_relevance.shares import Proportional, part
from whylight_relevance.steps import Step, node


def product(function: Callable[[Tensor, Tensor], Tensor], one: Tensor, other: Tensor, epsilon: float) -> Tensor:
    """Return a product of two signals; each gets half of the relevance, by its contributions (proposition 3.3)."""
    # In one layout, for a product of heads that lie apart is computed otherwise where there is one sample only.
    computed = part(function, one.contiguous(), other.contiguous())
    proportional = Proportional((computed,), epsilon)
    step = Step(lambda relevance: proportional(relevance.contiguous() / 2))
    return node(step, computed.z.detach().clone(), one, other)


def softmax(value: Callable[[], Tensor], input: Tensor, dim: int) -> Tensor:
    """Return a softmax `s`; relevance goes back as `x (R − s ΣR)` (proposition 3.1)."""
    with torch.no_grad():
        found = value()
    logits = torch.where(found == 0, 0, input.detach())  # Masked ones are infinite and get nothing.
    kept = found.clone()

    def share(relevance: Tensor) -> tuple[Tensor, ...]:
        return (logits * (relevance - kept * relevance.sum(dim, keepdim=True)),)

    return node(Step(share), found, input)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, epsilon: float
) -> Tensor:
    """Return the value of scaled dot-product attention, as two products of signals with a softmax between them."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = product(lambda one, other: factor * (one @ other.transpose(-2, -1)), query, key, epsilon)

    def weights() -> Tensor:
        if mask is None:
            return logits.softmax(-1)
        masked = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
        return masked.softmax(-1)

    return product(torch.matmul, softmax(weights, logits, -1), value, epsilon)


def layer_norm(
    input: Tensor, dims: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float, epsilon: float
) -> Tensor:
    """Return a layer normalisation; on the way back its deviation is a constant, so that it is linear (section 3.3)."""
    with torch.no_grad():
        deviation = (input.var(dims, correction=0, keepdim=True) + eps).sqrt()

    def value(leaf: Tensor) -> Tensor:
        result = (leaf - leaf.mean(dims, keepdim=True)) / deviation
        result = result if weight is None else result * weight
        return result if bias is None else result + bias

    computed = part(value, input)
    return node(Step(Proportional((computed,), epsilon)), computed.z.detach().clone(), input)
