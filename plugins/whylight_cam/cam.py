"""The original class activation map, for nets that end in average pooling and one linear layer; knows no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

import whylight
from whylight_cam.base import weighted
from whylight_cam.smoothing import COPIES, SMOOTH, smoothed

if TYPE_CHECKING:
    import torch


class CAMOptions(whylight.Options):
    """Whether to smooth."""

    smooth: bool = Field(False, description=SMOOTH)


class CAM(whylight.Attribution):
    """Sum of the last maps, each weighted by the class's own weight in the linear layer that follows their average.

    `Σ_k w_k A_k`, without a ReLU: before the bias, and up to the number of positions, its sum is the class's score.
    It is Grad-CAM before its ReLU times that number of positions.

    Use it for networks that end in global average pooling and one linear layer: nothing is approximated, and no
    gradient is needed.

    Avoid it for all others, which are refused: grad-cam is its generalisation to any network and any layer.
    """

    name = "cam"
    reference = "Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016"
    needs = frozenset({whylight.Need.GAP_HEAD})
    Options = CAMOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: CAMOptions) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` at the resolution of the layer that is averaged.

        Raises:
            Unsupported: the model has no such head, or a target is not the score of a class.
        """
        head = subject.gap_head()
        if head is None:
            raise whylight.Unsupported(
                "cam needs a model that ends in global average pooling and one linear layer; use grad-cam with this one"
            )
        # The maps come first, so that what resolves the targets takes the output from the same run.
        activations = None if options.smooth else subject.activations(batch, head.layer)[head.layer]
        weights = head.weight[[_class_of(resolved.target) for resolved in subject.resolve(batch)]]
        if activations is not None:
            return weighted(activations, weights, batch.rows)
        return smoothed(
            subject,
            batch,
            (head.layer,),
            lambda activations, gradients, rows: weighted(activations, weights, rows),
            "mean",
            whylight.PROFILES[options.profile],
            rectified=False,
        )

    def cost(self, options: Any) -> float:
        """Return the cost of a pass forward, or of one for each copy."""
        return 1.5 * len(COPIES) if options.smooth else 1.0

    def cost_per_target(self, options: Any) -> float:
        """Return the cost of one more weighted sum: next to nothing."""
        return 0.02


def _class_of(target: whylight.Target) -> int:
    """Return the index of the class that a resolved target stands for."""
    if isinstance(target, whylight.ClassIndex):
        return target.index
    if isinstance(target, whylight.OutputIndex) and len(target.indices) == 1:
        return target.indices[0]
    raise whylight.Unsupported(
        f"cam explains the score of a class, not a {type(target).__name__}; use grad-cam for it",
        reason="TARGET_UNSUPPORTED",
        field="target",
    )
