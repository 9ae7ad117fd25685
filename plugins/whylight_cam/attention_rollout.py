"""Attention rollout; knows only its definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight

if TYPE_CHECKING:
    import torch

HeadFusion = Literal["mean", "max", "min"]


class RolloutOptions(whylight.Options):
    """Options of attention rollout."""

    head_fusion: HeadFusion = Field(
        "mean", description="How the heads of a layer become one matrix: their mean, maximum or minimum."
    )
    discard_ratio: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of each layer's attention, the lowest, that is set to 0 before it is rolled out; the paper "
        "discards nothing, 0.9 is common.",
    )


class AttentionRollout(whylight.Attribution):
    """How much of each patch reaches the answer of a transformer if attention is followed through all layers.

    `R = Â_L ⋯ Â_1`, where `Â_l` is `½ A_l + ½ I` with each row divided by its sum: `A_l` is the attention of layer `l`,
    its heads fused by `head_fusion`, and the identity stands for the skip connection. The map is the row of `R` of the
    class token, at the patches; of a model that reads other tokens the mean of the rows that it reads: class and
    distillation tokens of DeiT, all patches where they are averaged. Registers and class tokens have no place on the
    map.

    `discard_ratio` is that of the implementation that made it known (jacobgil/vit-explain): the lowest part of the
    entries of the fused matrix becomes 0, but for the class token's attention to itself. Rows are divided by their own
    sums here, for every input of a batch; there, columns are, and only the first input discards.

    Costs one pass, without gradients.

    Use it for a quick look at where a transformer gathers from. Deep models mix tokens so much that the rollout grows
    flat: then `head_fusion` "max" with a high `discard_ratio` shows more.

    Avoid it to ask why: it is the same map for every class, and values and perceptrons do not count (chefer tells
    classes apart).
    """

    name = "attention-rollout"
    reference = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020"
    needs = frozenset({whylight.Need.ATTENTION})
    Options = RolloutOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: RolloutOptions) -> torch.Tensor:
        """Return the raw maps `[M, h, w]`, one place for each patch, the same for all targets of an input."""
        import torch

        maps = []
        for attended in subject.attentions(batch):
            rolled = rolled_out(attended.attentions, attended.read, options.head_fusion, options.discard_ratio)
            maps.append(attended.on_picture(rolled))
            batch.report(attended.numbers[-1] + 1, len(batch.inputs))
        return torch.cat(maps)[torch.tensor(batch.rows, device=batch.inputs.device)]

    def cost_per_target(self, options: RolloutOptions) -> float:
        """Return the cost of one more copy of a map: next to nothing."""
        return 0.01


def rolled_out(
    attentions: Sequence[torch.Tensor], read: torch.Tensor, fusion: HeadFusion, discard_ratio: float
) -> torch.Tensor:
    """Return ``read @ Â_L ⋯ Â_1`` `[K, T]`, of attentions `[K, heads, T, T]` from the first layer to the last.

    From the left, so that there are products of a row and a matrix only.
    """
    import torch

    tokens = read[:, None]
    for attention in reversed(attentions):
        fused = without_lowest(fuse_heads(attention, fusion), discard_ratio)
        fused = 0.5 * fused + 0.5 * torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
        tokens = tokens @ (fused / fused.sum(-1, keepdim=True))
    return tokens[:, 0]


def fuse_heads(attention: torch.Tensor, fusion: HeadFusion) -> torch.Tensor:
    """Return one matrix `[K, T, T]` for the heads of attention `[K, heads, T, T]`."""
    if fusion == "mean":
        return attention.mean(1)
    return attention.amax(1) if fusion == "max" else attention.amin(1)


def without_lowest(fused: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return matrices `[K, T, T]` with the lowest `ratio` of each one's entries 0, but for the very first entry."""
    flat = fused.flatten(1)
    count = int(flat.shape[1] * ratio)
    if count == 0:
        return fused
    lowest = flat.topk(count, dim=1, largest=False).indices
    kept = flat.scatter(1, lowest, 0.0)
    kept[:, 0] = flat[:, 0]
    return kept.view_as(fused)
