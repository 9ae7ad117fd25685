"""Kernel SHAP: Shapley values of superpixels by weighted least squares; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight
from whylight_perturbation.alone import alone, gathered
from whylight_perturbation.superpixels import SuperpixelOptions, scores_of, segmented

if TYPE_CHECKING:
    from torch import Tensor


class KernelSHAPOptions(SuperpixelOptions):
    """How the input is divided, and how many coalitions of superpixels are asked for."""


class KernelSHAP(whylight.Attribution):
    """Kernel SHAP: the Shapley value of each superpixel, its fair share of what the whole input adds to the target.

    `min_φ Σ_z π(z) (f(x_z) − f(x_∅) − φ·z)²` with `Σ φ = f(x) − f(x_∅)` as a constraint that holds exactly, where `x_z`
    shows the superpixels of `z`, `x_∅` none, and `π(z) = (S − 1) / (C(S, |z|) |z| (S − |z|))`. With `2^S` samples or
    more every coalition is asked for and the values are exact; otherwise the sizes of most weight are complete and the
    rest is drawn in pairs of complements, from the input's seed. A pixel gets the value of its superpixel.

    Its check: "efficiency_residual" is `Σ φ − (f(x) − f(x_∅))`.

    Use it for shares that add up and are fair by definition, of a few regions, from a model of which nothing is known
    but its answers.

    Avoid it for detail finer than a superpixel, and with few samples for many superpixels: the values then scatter from
    seed to seed. Hidden regions are pictures that the model never saw in training, and `fill` says which.
    """

    name = "kernel-shap"
    reference = (
        "Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017; paired sampling and the "
        "constraint: Covert and Lee, Improving KernelSHAP, AISTATS 2021"
    )
    stochastic = True
    Options = KernelSHAPOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: KernelSHAPOptions) -> whylight.Maps:
        """Return the maps `[M, H, W]` at the size of the input."""
        import torch

        from whylight_perturbation.shapley import coalitions, solve

        maps: list[Tensor] = []
        checks: list[Tensor] = []
        for row, one in enumerate(alone(subject, batch)):
            parts = segmented(subject, one.inputs, options)
            ends = torch.tensor([[True], [False]], device=one.inputs.device).expand(2, parts.count)
            between, weights = coalitions(parts.count, options.samples - 2, one.generator(0))
            shown = torch.cat((ends, between))
            scores = gathered(batch, row, len(shown), scores_of(subject, one, parts, shown, options.fill))
            full, empty = scores[:2].double()
            values = solve(between, weights, scores[2:], empty, full)
            maps.append(parts.spread(values.to(scores.dtype)))
            checks.append((values.sum(1) - (full - empty)).to(scores.dtype))
        return whylight.Maps(torch.cat(maps), {"efficiency_residual": torch.cat(checks)})

    def presentation(self, options: KernelSHAPOptions) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: KernelSHAPOptions) -> float:
        """Return the number of samples, the full and the empty one among them."""
        return float(options.samples)

    def cost_per_target(self, options: KernelSHAPOptions) -> float:
        """Return what one more solution costs; all targets share the runs."""
        return 1.0
