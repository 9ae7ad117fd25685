"""The gradient-weighted attention of Chefer, Gur and Wolf; knows only its definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import whylight

if TYPE_CHECKING:
    import torch


class Chefer(whylight.Attribution):
    """What of each patch reaches a target of a transformer, by attention weighted with the target's gradient.

    `R ← R + Ā_l R` over the layers `l = 1 … L`, from `R = I`, with `Ā_l = mean_h ReLU(∇A_l ⊙ A_l)`: attention `A_l`
    counts where more of it would raise the target (equations 5 and 6 of the paper; its rule for self-attention, the one
    that vision transformers need). The map is the row of `R` of the class token, at the patches; of a model that reads
    other tokens the mean of the rows that it reads: class and distillation tokens of DeiT, all patches where they are
    averaged (each patch then also gets the same share of its own). Registers and class tokens have no place on the
    map. For a neuron, or a part of a dense output, the rows are those of the tokens on which it depends behind the last
    attention that matters to it.

    Costs one pass there and one back for each target.

    Use it for transformers in place of Grad-CAM: it tells classes apart.

    Avoid it where no value of `A` speaks for the target, as for classes that the model excludes: the map is faint there
    and means little. Windows, as of Swin, have no such matrices: there, use the CAM methods.
    """

    name = "chefer"
    reference = (
        "Chefer, Gur and Wolf, Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder "
        "Transformers, ICCV 2021"
    )
    needs = frozenset({whylight.Need.ATTENTION, whylight.Need.GRADIENTS})

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: whylight.Options) -> torch.Tensor:
        """Return the raw maps `[M, h, w]`, one place for each patch, not negative."""
        import torch

        maps: dict[int, torch.Tensor] = {}
        for attended in subject.attention_gradients(batch):
            relevance = relevance_of(attended.attentions, attended.gradients, attended.read)
            maps.update(zip(attended.numbers, attended.on_picture(relevance), strict=True))
            batch.report(len(maps), len(batch.targets))
        return torch.stack([maps[target] for target in range(len(batch.targets))])

    def cost(self, options: whylight.Options) -> float:
        """Return the cost of a pass forward and one back."""
        return 2.0

    def cost_per_target(self, options: whylight.Options) -> float:
        """Return the cost of one more pass back; all targets share the forward pass."""
        return 1.0


def relevance_of(
    attentions: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], read: torch.Tensor
) -> torch.Tensor:
    """Return ``read @ (I + Ā_L) ⋯ (I + Ā_1)`` `[K, T]`, of attentions and gradients `[K, heads, T, T]`.

    Layers are given from the first to the last; the product is taken from the left, a row times a matrix each time.
    """
    tokens = read[:, None]
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        tokens = tokens + tokens @ (gradient * attention).relu().mean(1)
    return tokens[:, 0]
