"""LIME: a linear model of the target near the input, over superpixels; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_perturbation.alone import alone, gathered
from whylight_perturbation.superpixels import SuperpixelOptions, scores_of, segmented

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REGULARISATION = {"ridge": 1.0, "lasso": 0.01}


class LIMEOptions(SuperpixelOptions):
    """How samples are weighted, and which linear model is fitted to them."""

    kernel_width: float = Field(
        0.25, gt=0, le=100, description="How fast the weight of a sample falls with its cosine distance from the input."
    )
    surrogate: Literal["ridge", "lasso"] = Field(
        "ridge", description="Which linear model is fitted: 'ridge', or 'lasso', which leaves superpixels out."
    )
    regularisation: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="How strongly coefficients are held down; without it 1 for 'ridge' and 0.01 for 'lasso', the "
        "settings of the authors' code and of captum.",
    )


class LIME(whylight.Attribution):
    """LIME: what each superpixel adds to the target, by a linear model fitted to samples with random ones hidden.

    `min_β Σ_i π_i (f(x_i) − β_0 − β·z_i)² + α |β|²`, where `z_i` says which superpixels sample `i` shows, each with
    probability 1/2 (the first shows all); `π_i = exp(−d_i² / 2σ²)` with the cosine distance `d_i = 1 − √(|z_i| / S)`,
    as in the authors' code for pictures. A pixel gets the coefficient of its superpixel.

    Its check: "surrogate_r2" is the weighted R² of the linear model: far below 1, the coefficients say little of the
    network.

    Use it for a rough, readable answer in regions, from a model of which nothing is known but its answers.

    Avoid it where the R² is low, where shares must add up (kernel-shap), and for detail finer than a superpixel.
    Another segmentation or `fill` may give another answer: try two.
    """

    name = "lime"
    reference = 'Ribeiro et al., "Why Should I Trust You?": Explaining the Predictions of Any Classifier, KDD 2016'
    stochastic = True
    Options = LIMEOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: LIMEOptions) -> whylight.Maps:
        """Return the maps `[M, H, W]` at the size of the input."""
        import torch

        from whylight_perturbation.surrogate import fit

        maps: list[Tensor] = []
        checks: list[Tensor] = []
        strength = REGULARISATION[options.surrogate] if options.regularisation is None else options.regularisation
        for row, one in enumerate(alone(subject, batch)):
            parts = segmented(subject, one.inputs, options)
            shown = _samples(options.samples, parts.count, one.generator(0))
            scores = gathered(batch, row, len(shown), scores_of(subject, one, parts, shown, options.fill))
            distance = 1 - (shown.double().sum(1) / parts.count).sqrt()
            weights = (-(distance**2) / (2 * options.kernel_width**2)).exp()
            fitted = fit(shown, scores, weights, options.surrogate, strength, batch.cancel.check)
            maps.append(parts.spread(fitted.coefficients.to(scores.dtype)))
            checks.append(fitted.r2.to(scores.dtype))
        return whylight.Maps(torch.cat(maps), {"surrogate_r2": torch.cat(checks)})

    def presentation(self, options: LIMEOptions) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: LIMEOptions) -> float:
        """Return the number of samples."""
        return float(options.samples)

    def cost_per_target(self, options: LIMEOptions) -> float:
        """Return what one more fit costs; all targets share the runs."""
        return 1.0


def _samples(count: int, parts: int, generator: torch.Generator) -> Tensor:
    """Return which superpixels each sample shows, `[count, parts]`; the first shows all."""
    import torch

    shown = torch.rand(count, parts, generator=generator, device=generator.device) < 0.5
    shown[0] = True
    return shown
