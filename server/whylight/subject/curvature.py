"""The second derivative of targets at a layer, times the layer's own output; knows no method and keeps no graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whylight.errors import Unsupported
from whylight.subject.aim import Aim, sources_of
from whylight.subject.backward_rule import BackwardRule, FunctionCall
from whylight.subject.cancel import CancelToken
from whylight.subject.pull_back import rounds

if TYPE_CHECKING:
    from whylight.method import Batch
    from whylight.subject.subject import Subject

_PASSES = 3
"""How much more memory a row takes than for gradients alone: the graph of the backward pass is kept too."""


def layer_hessian_products(subject: Subject, batch: Batch, layer: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return activations, gradients and products; see `Subject.layer_hessian_products`."""
    aims = subject.aims(batch)
    layers, latents = sources_of(aims)
    size = max(1, subject.model.max_rows(gradients_at=layer) // _PASSES)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(batch.inputs), size):
        batch.cancel.check()
        rows = slice(start, min(start + size, len(batch.inputs)))
        with torch.enable_grad():
            ran = subject.model.run(
                batch.inputs[rows],
                batch.companions_at(rows),
                split=layer,
                watch=layers,
                latents=latents,
                rule=_UNFUSED,
                plain=True,  # What torch.compile makes cannot be differentiated twice.
            )
            assert ran.leaf is not None
            aimed = [
                (aim, row - start) for aim, row in zip(aims, batch.rows, strict=True) if rows.start <= row < rows.stop
            ]
            parts.append((ran.leaf.detach(), *_twice(ran.leaf, ran.sources(), aimed, batch.cancel)))
    activations, gradients, products = (torch.cat(column) for column in zip(*parts, strict=True))
    return activations, gradients, products


@dataclass(frozen=True)
class _Unfused(BackwardRule):
    """Computes attention step by step: its fused kernels cannot be differentiated twice.

    `torch.nn.attention.sdpa_kernel` would choose so for every thread of the process, and change their bits.
    """

    def call(self, call: FunctionCall) -> Any:
        """Take attention apart; leave the rest."""
        if call.function is F.multi_head_attention_forward:
            return call.descend()
        if call.function is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_attention_math(*call.args, **call.kwargs)[0]
        return call.proceed()


_UNFUSED = _Unfused()


def _twice(
    leaf: Tensor, sources: Mapping[str, Tensor], aimed: Sequence[tuple[Aim, int]], cancel: CancelToken
) -> tuple[Tensor, Tensor]:
    """Return the gradient of each aim at its row of the leaf, and the Hessian's product with that row, `[M, ...]`."""
    gradients = leaf.new_zeros((len(aimed), *leaf.shape[1:]))
    products = torch.zeros_like(gradients)
    turns = rounds(aimed)
    for turn, numbers in enumerate(turns):
        cancel.check()
        scalars = [aimed[number][0].scalar(sources[aimed[number][0].source][aimed[number][1]]) for number in numbers]
        total = torch.stack(scalars).sum()
        first = (
            torch.autograd.grad(total, leaf, create_graph=True, allow_unused=True)[0] if total.requires_grad else None
        )
        if first is None:
            raise Unsupported("the target does not depend on this layer", reason="TARGET_UNSUPPORTED", field="target")
        places = torch.tensor(numbers, device=leaf.device)
        rows = torch.tensor([aimed[number][1] for number in numbers], device=leaf.device)
        gradients[places] = first.detach()[rows]
        if not first.requires_grad:  # linear from here on
            continue
        again = turn + 1 < len(turns)
        try:
            (second,) = torch.autograd.grad(first, leaf, leaf.detach(), retain_graph=again, allow_unused=True)
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            raise Unsupported(
                f"the network behind this layer cannot be differentiated twice: {error}", field="options.layer"
            ) from error
        if second is not None:
            products[places] = second[rows]
    return gradients, products
