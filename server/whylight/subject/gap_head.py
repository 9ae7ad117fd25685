"""The closed form of the gradient for networks that end in maps -> average pooling -> one linear layer; knows no batch.

There the score of class c is `W[c] . mean(A) + b[c]`, so its gradient at every position of the maps A `[C, h, w]` is
`W[c] / (h * w)`, and no backward pass is needed (Zhou et al., CVPR 2016; Selvaraju et al., ICCV 2017, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Operators that are linear in their one differentiable input: with only these between maps and scores, the gradient
# is the same for every input, so that checking it once proves it.
_LINEAR_NODES = frozenset(
    f"{name}Backward"
    for name in (
        "AdaptiveAvgPool2D",
        "Addmm",
        "Alias",
        "AsStrided",
        "AvgPool2D",
        "Cat",
        "Clone",
        "ConstantPadNd",
        "Expand",
        "Linear",
        "Mean",
        "Mm",
        "Permute",
        "ReshapeAlias",
        "Select",
        "Slice",
        "Split",
        "Squeeze",
        "ToCopy",
        "Transpose",
        "UnsafeView",
        "Unsqueeze",
        "View",
    )
)


@dataclass(frozen=True)
class GapHead:
    """A head that averages the maps of `layer` and weighs them: `weight` is `[K, C]`, `bias` `[K]` or None."""

    layer: str
    weight: Tensor
    bias: Tensor | None

    def gradients(self, classes: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the gradients of the scores of `classes` `[M]` at maps of `size` (h, w).

        The result is `[M, C, h, w]`, expanded: its spatial strides are 0 and it takes M * C numbers.
        """
        height, width = size
        weights = self.weight[classes] / (height * width)
        return weights[:, :, None, None].expand(-1, -1, height, width)

    def pulled_back(self, slopes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the gradients of functions of the scores whose slopes there are `[K]` each; as `gradients` does."""
        height, width = size
        # One by one: a product of several is rounded in another way.
        weights = torch.stack([slope @ self.weight for slope in slopes]) / (height * width)
        return weights[:, :, None, None].expand(-1, -1, height, width)


def find_gap_head(layer: str, linear: nn.Module | None, leaf: Tensor, output: Tensor) -> GapHead | None:
    """Return the head behind `layer`, or None if it is not of this kind.

    `leaf` are the maps `[N, C, h, w]`, `output` the scores `[N, K]` computed from them with a graph, `linear` the last
    linear layer that ran. The graph may hold linear operators only; then scores and gradients are compared with the
    closed form, to 1e-5 of the largest.
    """
    if not isinstance(linear, nn.Linear) or leaf.dim() != 4 or output.dim() != 2:
        return None
    if linear.weight.shape != (output.shape[1], leaf.shape[1]) or not only_linear(output):
        return None
    head = GapHead(layer, linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
    if not _close(F.linear(leaf.detach().mean((2, 3)), head.weight, head.bias), output.detach()):
        return None
    size = (leaf.shape[2], leaf.shape[3])
    for index in sorted({0, output.shape[1] // 2, output.shape[1] - 1}):
        (gradients,) = torch.autograd.grad(output[:, index].sum(), leaf, retain_graph=True)
        classes = torch.full((len(leaf),), index, device=leaf.device)
        if not _close(head.gradients(classes, size), gradients):
            return None
    return head


def only_linear(output: Tensor) -> bool:
    """Whether a tensor was computed from its leaves by linear operators alone."""
    pending: list[Any] = [output.grad_fn]
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen or type(node).__name__ == "AccumulateGrad":
            continue
        seen.add(node)
        if type(node).__name__.rstrip("0123456789") not in _LINEAR_NODES:
            return False
        pending += [following for following, _ in node.next_functions]
    return bool(seen)


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())
