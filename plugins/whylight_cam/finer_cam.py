"""Finer-CAM; knows only its definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

import whylight
from whylight_cam.base import GradientMap, Scheme, SmoothOptions, places, pooled

if TYPE_CHECKING:
    import torch

_EPS = 1e-9
"""What pytorch-grad-cam adds to the sum of the references' probabilities."""


class FinerOptions(SmoothOptions):
    """What the class is compared with, and how."""

    scheme: Scheme = Field("grad-cam", description="The method that draws the difference.")
    references: int | tuple[int, ...] = Field(
        3,
        description="Classes that the target is compared with: how many of those nearest in score, or a list of "
        "class indices.",
    )
    alpha: float = Field(
        0.6,
        ge=0,
        le=10,
        description="How much of the references' score is subtracted; 0 is the plain method. torchcam's default is "
        "0.6 too, that of pytorch-grad-cam is 1.",
    )


class FinerCAM(GradientMap):
    """What speaks for a class and not for the classes most like it: Grad-CAM of the difference of their scores.

    The map of `y_c - α · mean_j y_j` by any gradient-weighted scheme, where the references j are the classes nearest to
    c in score, or those that are given. Under the profile "pytorch-grad-cam" references count by their probability p,
    which is differentiated too: `Σ_j p_j (y_c - α y_j) / (Σ_j p_j + 1e-9)`.

    Costs a forward pass more than its scheme.

    Use it between look-alikes, such as breeds of dogs: plain maps of those show the same animal.

    Avoid it for one class against the rest of the world, where the plain method is enough, and for targets that are not
    classes, which are refused.
    """

    name = "finer-cam"
    reference = (
        "Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation, CVPR 2025"
    )
    Options = FinerOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: FinerOptions) -> torch.Tensor:
        """Return the raw maps `[M, h, w]`.

        Raises:
            Unsupported: a target is not the score of a class.
            InvalidInput: a reference is not a class of the model, or is the target itself, or none is left.
        """
        if not options.smooth:
            subject.activations(batch, *places(options))  # with the output, from one run
        outputs = subject.outputs(batch)
        by_probability = options.profile == "pytorch-grad-cam"
        contrasts = []
        for index, row in zip(_classes(subject, batch), batch.rows, strict=True):
            others = references(outputs[row], index, options.references)
            difference = ScoreDifference(index, others, options.alpha, by_probability)
            contrasts.append(whylight.Objective(difference, f"class {index} against its like"))
        return super().attribute(subject, dataclasses.replace(batch, targets=tuple(contrasts)), options)

    def pool(
        self, activations: torch.Tensor, gradients: torch.Tensor, rows: Sequence[int], options: Any
    ) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` by the chosen scheme."""
        return pooled(activations, gradients, rows, options.scheme, options)

    def cost(self, options: FinerOptions) -> float:
        """Return the cost of the scheme and of the pass that finds the references."""
        return 1.0 + super().cost(options)


@dataclasses.dataclass(frozen=True)
class ScoreDifference:
    """The score of a class less `alpha` times that of its references, on average or by their probabilities."""

    index: int
    references: tuple[int, ...]
    alpha: float
    by_probability: bool

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        """Return the contrast of one input's scores `[K]`."""
        others = output[list(self.references)]
        if not self.by_probability:
            return output[self.index] - self.alpha * others.mean()
        probabilities = output.softmax(0)[list(self.references)]
        differences = output[self.index] - self.alpha * others
        return (probabilities * differences).sum() / (probabilities.sum() + _EPS)


def references(scores: torch.Tensor, index: int, wanted: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the classes that class `index` is compared with, given the scores `[K]` of one input.

    Raises:
        InvalidInput: a wanted class is not there, or is the class itself, or there is no other class.
    """
    classes = len(scores)
    if isinstance(wanted, int):
        nearest = (scores - scores[index]).abs().argsort(stable=True).tolist()
        chosen = tuple(other for other in nearest if other != index)[: max(wanted, 0)]
    else:
        chosen = wanted
    if not chosen or any(not 0 <= other < classes for other in chosen) or index in chosen:
        raise whylight.InvalidInput(
            f"references must be other classes than {index}, from 0 to {classes - 1}; these are {list(chosen)}",
            reason="OPTION_INVALID",
            field="options.references",
        )
    return chosen


def _classes(subject: whylight.Subject, batch: whylight.Batch) -> list[int]:
    found = []
    for resolved in subject.resolve(batch):
        target = resolved.target
        if not isinstance(target, whylight.ClassIndex):
            raise whylight.Unsupported(
                f"finer-cam compares the scores of classes, not a {type(target).__name__}; use grad-cam for it",
                reason="TARGET_UNSUPPORTED",
                field="target",
            )
        found.append(target.index)
    return found
