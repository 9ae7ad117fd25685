"""DeepLIFT: what each pixel's difference from a baseline adds to the difference of the target; only its definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_gradients.baselines import baseline
from whylight_gradients.path import completeness

if TYPE_CHECKING:
    import torch


class DeepLiftOptions(whylight.Options):
    """What the input is compared to."""

    baseline: Literal["zero", "black", "white", "mean", "blur"] = Field(
        "black",
        description="What the input is compared to: "
        + whylight.describe_baselines("black", "white", "zero", "mean", "blur")
        + ".",
    )


class DeepLift(whylight.Attribution):
    """Difference from a baseline, times multipliers that carry differences back in place of derivatives: exact shares.

    `Σ_c (x_c − x'_c) m_c`. Input and baseline run side by side; on the way back each function of one number (ReLU,
    sigmoid, GELU …) has the multiplier `Δoutput / Δinput` (the rescale rule), max pooling sends differences to where
    the maxima were, and what is linear has its derivative. Beyond the paper, products of two activations (gates,
    attention), softmax and layer normalisation are divided up so that nothing is lost. The map then sums to `f(x) −
    f(x')`. Modules used twice, functions and in-place ReLU are all the same. Captum's DeepLift sees modules only, each
    once, and is wrong where pooling windows overlap or a pooling follows an activation and the baseline has the larger
    maximum.

    Its checks: "completeness_residual" is the map's sum minus `f(x) − f(x')`, near zero unless the network has other
    functions that are not linear; "score_difference" is that difference.

    Costs one pass forward for the baseline, and one there and back.

    Use it in place of integrated-gradients, at a tenth of the cost.

    Avoid it where no baseline means "nothing", for the choice matters as much as there, and where the residual is not
    small.
    """

    name = "deeplift"
    reference = (
        "Shrikumar et al., Learning Important Features Through Propagating Activation Differences, ICML 2017, "
        "sections 3.1 to 3.5.1"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    Options = DeepLiftOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: DeepLiftOptions) -> whylight.Maps:
        """Return the maps `[M, H, W]` at the size of the input, and their checks."""
        import torch

        start = baseline(subject, batch, options.baseline)
        smallest = _smallest(batch, options)
        # For each input a graph is kept, and beside it what is not linear of its baseline.
        size = max(1, min(subject.model.max_rows(gradients_at="") // 2, subject.rows_with_gradients()))
        if len(start) <= size:
            multipliers, scores, at_baseline = _multipliers(subject, batch, start, smallest)
        else:
            definite = tuple(found.target for found in subject.resolve(batch))
            parts = [
                # A subject of its own: what this one remembers of the batch stays.
                _multipliers(subject.model.subject(batch.cancel), part, start[rows], smallest)
                for rows, part in _parts(dataclasses.replace(batch, targets=definite), size)
            ]
            multipliers, scores, at_baseline = (torch.cat(column) for column in zip(*parts, strict=True))
        maps = ((batch.inputs - start)[list(batch.rows)] * multipliers).sum(1)
        return whylight.Maps(maps, completeness(maps, scores, at_baseline))

    def presentation(self, options: DeepLiftOptions) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: DeepLiftOptions) -> float:
        """Return the cost of two passes forward and one back, functions computed again on the way."""
        return 4.0

    def cost_per_target(self, options: DeepLiftOptions) -> float:
        """Return the cost of one more pass back; all targets share the forward passes."""
        return 1.5


def _smallest(batch: whylight.Batch, options: DeepLiftOptions) -> float:
    """Return the difference up to which a derivative stands for a quotient: below it rounding decides."""
    import torch

    return 1e-10 if options.profile == "captum" or batch.inputs.dtype == torch.float64 else 1e-6


def _parts(batch: whylight.Batch, size: int) -> Iterator[tuple[slice, whylight.Batch]]:
    """Yield the batch in parts of at most `size` inputs, with the rows of each."""
    for first in range(0, len(batch.inputs), size):
        rows = slice(first, first + size)
        mine = [m for m, row in enumerate(batch.rows) if first <= row < first + size]
        yield (
            rows,
            dataclasses.replace(
                batch,
                inputs=batch.inputs[rows],
                targets=tuple(batch.targets[m] for m in mine),
                rows=tuple(batch.rows[m] - first for m in mine),
                seeds=(),
                companions=batch.companions_at(rows),
            ),
        )


def _multipliers(
    subject: whylight.Subject, batch: whylight.Batch, start: torch.Tensor, smallest: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the multipliers for all targets, `[M, C, H, W]`, and the targets' values at inputs and baselines, `[M]`.

    The baselines run first, without a graph, and only the inputs have a way back.
    """
    from whylight_gradients.rescale_rule import Recording, Rescale

    baselines = Recording()
    (at_baseline,) = subject.altered_scores(batch, 1, lambda _: start, rule=baselines)
    multipliers = subject.input_gradients(batch, rule=Rescale(smallest, baselines))
    return multipliers, subject.scores(batch), at_baseline
