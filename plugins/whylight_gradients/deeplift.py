"""DeepLIFT: what each pixel's difference from a baseline adds to the difference of the target; only its definition."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_gradients.baselines import baseline
from whylight_gradients.path import completeness, scores_at

if TYPE_CHECKING:
    import torch


class DeepLiftOptions(whylight.Options):
    """What the input is compared to."""

    baseline: Literal["zero", "black", "white", "mean", "blur"] = Field(
        "black",
        description="What the input is compared to: 'black' or 'white' as the picture was before it was normalised; "
        "'zero' in the units that the network sees; 'mean', the input's own mean colour; 'blur', the input strongly "
        "blurred.",
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

    Costs two rows forward and back, two more forward for the checks.

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
        size = max(1, subject.model.max_rows(gradients_at="") // 2)
        multipliers = torch.cat(
            [
                _multipliers(subject, batch, start, slice(first, first + size), _smallest(batch, options))
                for first in range(0, len(start), size)
            ]
        )
        maps = ((batch.inputs - start)[list(batch.rows)] * multipliers).sum(1)
        return whylight.Maps(maps, completeness(maps, subject.scores(batch), scores_at(subject, batch, [start])[0]))

    def presentation(self, options: DeepLiftOptions) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: DeepLiftOptions) -> float:
        """Return the cost of two rows forward and back, functions computed again on the way, and of the scores."""
        return 6.0

    def cost_per_target(self, options: DeepLiftOptions) -> float:
        """Return the cost of one more pass back of two rows; all targets share the forward pass."""
        return 2.0


def _smallest(batch: whylight.Batch, options: DeepLiftOptions) -> float:
    """Return the difference up to which a derivative stands for a quotient: below it rounding decides."""
    import torch

    return 1e-10 if options.profile == "captum" or batch.inputs.dtype == torch.float64 else 1e-6


def _multipliers(
    subject: whylight.Subject, batch: whylight.Batch, start: torch.Tensor, rows: slice, smallest: float
) -> torch.Tensor:
    """Return the multipliers at some inputs for all targets of these, `[m, C, H, W]`."""
    import torch

    from whylight_gradients.rescale_rule import Rescale

    inputs = batch.inputs[rows]
    mine = [m for m, row in enumerate(batch.rows) if rows.start <= row < rows.stop]
    pairs = dataclasses.replace(
        batch,
        inputs=torch.cat((inputs, start[rows])),
        targets=tuple(batch.targets[m] for m in mine),
        rows=tuple(batch.rows[m] - rows.start for m in mine),
        seeds=(),
        companions={name: torch.cat((values, values)) for name, values in batch.companions_at(rows).items()},
    )
    # A subject of its own: what this one remembers of the batch stays.
    return subject.model.subject(batch.cancel).input_gradients(pairs, rule=Rescale(smallest))
