"""Integrated gradients: the gradient averaged on the way from a baseline to the input; knows only its definition."""

from __future__ import annotations

from pydantic import Field

import whylight
from whylight_gradients import baselines, quadrature
from whylight_gradients.baselines import BaselineName, baseline
from whylight_gradients.path import completeness, integrated, scores_at


class IntegratedGradientsOptions(whylight.Options):
    """The path and how it is sampled."""

    steps: int = Field(
        50, ge=2, le=2000, description="Gradients taken on the path; the residual says whether they were enough."
    )
    rule: quadrature.Rule = Field("gauss-legendre", description=quadrature.DESCRIPTION)
    baseline: BaselineName = Field("black", description="Where the path begins: " + baselines.DESCRIPTION)


class IntegratedGradients(whylight.Attribution):
    """Gradient averaged on the straight way from a baseline to the input, times that way: shares of the score.

    `Σ_c (x_c − x'_c) ∫₀¹ ∂y/∂x_c (x' + α (x − x')) dα`. The map sums to `f(x) − f(x')`, but for the error of the sum
    that stands for the integral. Captum's `riemann_trapezoid` has weights that sum to (n-1)/n, and its residual with
    it; our "trapezoid" is the trapezoidal rule.

    Its checks: "completeness_residual" is the map's sum minus `f(x) − f(x')`, "score_difference" that difference
    itself. Where the residual is more than a few per cent of the difference, take more steps.

    Costs `steps` passes forward and back, and one forward for the baseline.

    Use it where shares must add up; choose a baseline that the network answers with "nothing". The map is fine-grained;
    smoothgrad with this base smooths it.

    Avoid it with a baseline that looks like the object: what looks like the baseline gets nothing (black objects, from
    black).
    """

    name = "integrated-gradients"
    reference = "Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017"
    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    Options = IntegratedGradientsOptions

    def attribute(
        self, subject: whylight.Subject, batch: whylight.Batch, options: IntegratedGradientsOptions
    ) -> whylight.Maps:
        """Return the maps `[M, H, W]` at the size of the input, and their checks."""
        start = baseline(subject, batch, options.baseline)
        way = (batch.inputs - start)[list(batch.rows)]
        sums = integrated(
            subject, batch, 1, lambda _: (start, batch.inputs), quadrature.nodes(options.rule, options.steps)
        )
        maps = way.sum(1)
        for step, mean in enumerate(sums, 1):
            maps = (way * mean).sum(1)
            batch.report(step, options.steps, maps)
        return whylight.Maps(maps, completeness(maps, subject.scores(batch), scores_at(subject, batch, [start])[0]))

    def presentation(self, options: IntegratedGradientsOptions) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: IntegratedGradientsOptions) -> float:
        """Return the cost of a pass forward and back for each step, and of the baseline's."""
        return 2.0 * options.steps + 2.0

    def cost_per_target(self, options: IntegratedGradientsOptions) -> float:
        """Return the cost of one more pass back for each step; all targets share the forward passes."""
        return 1.0 * options.steps
