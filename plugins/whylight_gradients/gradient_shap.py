"""Gradient SHAP: expected gradients of noisy copies of the input; knows only its definition."""

from __future__ import annotations

from pydantic import Field

from whylight_gradients.expected import Expected, ExpectedOptions


class GradientShapOptions(ExpectedOptions):
    """The samples, the baselines, the noise."""

    noise: float = Field(
        0.1,
        ge=0,
        le=10,
        description="Standard deviation of the Gaussian noise on the input, as a part of its range (its largest minus "
        "its smallest value). Without noise it is expected-gradients.",
    )


class GradientShap(Expected):
    """Gradient times way from many baselines to noisy copies of the input: approximate SHAP values of the pixels.

    `E Σ_c (z_c − x'_c) ∂y/∂x_c (x' + α (z − x'))`, `z = x + ε`, `ε ~ N(0, (noise · range of x)²)`, `α ~ U(0, 1)`, `x'`
    from `baselines`: expected-gradients and smoothgrad in one, as in captum's GradientShap and shap's
    GradientExplainer (with local smoothing). SHAP values of independent features, if the network were linear between
    baseline and input; they sum to `f(x) − E f(x')` but for the noise and the error of drawing: the check
    "completeness_residual" is the map's sum minus that difference, "score_difference" the difference.

    Use it for smoother maps than expected-gradients, and that where sums matter. `samples` passes forward and back, and
    a pass forward for each baseline.
    """

    name = "gradient-shap"
    reference = (
        "Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, NIPS 2017; shap's GradientExplainer"
    )
    Options = GradientShapOptions

    def noise(self, options: GradientShapOptions) -> float:  # type: ignore[override]
        """Return the deviation of the noise on the input, as a part of its range."""
        return options.noise
