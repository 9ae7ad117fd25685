"""Randomisation check: whether the map depends on what the model has learned; knows only its definition."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_metrics.per_target import enlarged

if TYPE_CHECKING:
    from torch import Tensor


class RandomisationOptions(whylight.PlainOptions):
    """Which weights are drawn anew, and how maps are compared."""

    layers: int = Field(
        1, ge=1, le=1000, description="How many layers with weights are drawn anew, from the output back."
    )
    similarity: Literal["rank-correlation", "ssim"] = Field(
        "rank-correlation",
        description="How alike two maps are: Spearman's correlation of their pixels' ranks, or structural similarity.",
    )
    weights_seed: int = Field(0, ge=0, lt=2**53, description="Seed of the weights, the same for all inputs.")


class Randomisation(whylight.Metric):
    """How alike the map is to the same method's map of a model with random last layers; lower is better.

    The similarity is 1 for a map that does not change at all: it shows the picture, not what the model has learned of
    it. The weights of the last layers are drawn anew in a copy of the model, which is made once for a seed. Of two maps
    that do not vary the similarity is 1, of one that does and one that does not 0.
    """

    name = "randomisation"
    reference = "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, arXiv:1810.03292"
    higher_is_better = False
    Options = RandomisationOptions

    def measure(
        self,
        subject: whylight.Subject,
        batch: whylight.Batch,
        maps: Tensor,
        explain: whylight.Explain,
        options: RandomisationOptions,
    ) -> whylight.Measured:
        """Return the similarity of each target's two maps, -1 to 1."""
        import torch

        from whylight_metrics.similarity import rank_correlation, structural_similarity

        definite = dataclasses.replace(batch, targets=tuple(found.target for found in subject.resolve(batch)))
        other = subject.model.randomised(options.weights_seed, options.layers).subject(batch.cancel)
        pairs = (enlarged(some, batch.inputs).double() for some in (maps, explain(definite, other)))
        compare = rank_correlation if options.similarity == "rank-correlation" else structural_similarity
        return whylight.Measured(torch.stack([compare(one, another) for one, another in zip(*pairs, strict=True)]))

    def explanations(self, options: RandomisationOptions) -> int:
        """Return the one run on the other model."""
        return 1
