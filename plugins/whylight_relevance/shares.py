"""How relevance is shared out among the inputs of a linear map; knows no layer type, no rule and no run.

A linear map gives `z_j = Σ_i c_ij`, where the contribution `c_ij` is an input times a weight. Relevance `R_j` goes
back to the inputs in proportion, `R_i = Σ_j c_ij R_j / z_j`. This needs no matrix of contributions: it is the input
times the gradient of the map for the cotangent `R / z`. The map is computed while the run goes forward, by the very
call that the model makes, so that its bits do not depend on the batch either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import whylight

Share = Callable[[Tensor], tuple[Tensor | None, ...]]
"""From the relevance of an output to the relevance of each input; None for an input that gets none."""


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Return `z + ε sign(z)`, where zero counts as positive; for ε = 0, infinity at zeros: relevance ends there."""
    if epsilon == 0:
        return torch.where(z == 0, torch.inf, z)
    return torch.where(z < 0, z - epsilon, z + epsilon)


@dataclass(frozen=True, eq=False)
class Part:
    """A linear function of some leaves, computed with a graph; its contributions are leaves times gradients.

    `sign` is that with which it adds to `z`. If it is not `weighed`, contributions are the gradients alone: for rules
    that look at nothing but the weights.
    """

    leaves: tuple[Tensor, ...]
    z: Tensor
    versions: tuple[int, ...]
    sign: float = 1.0
    weighed: bool = True

    def contributions(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        """Return the share of each leaf, for relevance that is divided by `z` already.

        Raises:
            Unsupported: an input was changed in place since.
        """
        if any(leaf._version != version for leaf, version in zip(self.leaves, self.versions, strict=True)):
            raise whylight.Unsupported(
                "relevance cannot go back: the model changes in place what it still needs", field="model"
            )
        gradients = torch.autograd.grad(self.z, self.leaves, self.sign * cotangent, retain_graph=True)
        if not self.weighed:
            return gradients
        return tuple(leaf.detach() * gradient for leaf, gradient in zip(self.leaves, gradients, strict=True))


def part(function: Callable[..., Tensor], *inputs: Tensor, sign: float = 1.0, weighed: bool = True) -> Part:
    """Compute a linear function of `inputs` so that relevance can go back through it."""
    with torch.enable_grad():
        leaves = tuple(one.detach().requires_grad_(True) for one in inputs)
        return Part(leaves, function(*leaves), tuple(leaf._version for leaf in leaves), sign, weighed)


@dataclass(frozen=True, eq=False)
class Made:
    """A tensor that is made again when the way back needs it, so that nobody has to keep it until then."""

    make: Callable[[], Tensor]

    def used_by(self, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``compute(tensor)`` with its graph, in which there is how to make the tensor in place of itself."""
        made = self.make()
        # Numbers, for the graph keeps this function too, and with it what it knows.
        low, offset = made.data_ptr(), made.storage_offset()
        high = low + made.nbytes

        def pack(tensor: Tensor) -> Any:
            if not low <= tensor.data_ptr() < high:
                return tensor
            return tensor.shape, tensor.stride(), tensor.storage_offset() - offset

        def unpack(kept: Any) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            shape, stride, distance = kept
            again = self.make()
            return again.as_strided(shape, stride, again.storage_offset() + distance)

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return compute(made)


@dataclass(frozen=True, eq=False)
class Proportional:
    """Shares relevance out in proportion to the contributions of its parts, which are of the same inputs."""

    parts: tuple[Part, ...]
    epsilon: float

    def __call__(self, relevance: Tensor) -> tuple[Tensor, ...]:
        """Return the relevance of each input."""
        cotangent = relevance / stabilised(total([one.sign * one.z.detach() for one in self.parts]), self.epsilon)
        shares = [one.contributions(cotangent) for one in self.parts]
        return tuple(total(list(of_input)) for of_input in zip(*shares, strict=True))


def total(terms: list[Tensor]) -> Tensor:
    """Return the sum of some tensors, in their order."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result
