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
    from `baselines`: expected-gradients and smoothgrad in one, as in captum's GradientShap and shap's GradientExplainer
    (with local smoothing). SHAP values of independent features, if the network were linear between baseline and input;
    they sum to `f(x) − E f(x')` but for the noise and the error of drawing.

    Its checks: "completeness_residual" is the map's sum minus `f(x) − E f(x')`, "score_difference" that difference.

    Costs `samples` passes forward and back, and a pass forward for each baseline.

    Use it for smoother maps than those of expected-gradients.

    Avoid it where sums matter (expected-gradients), and as a measure of fair shares: neither is a network linear, nor
    are pixels independent (kernel-shap, over superpixels).
    """

    name = "gradient-shap"
    reference = (
        "Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, NIPS 2017; shap's GradientExplainer"
    )
    Options = GradientShapOptions

    def noise(self, options: GradientShapOptions) -> float:  # type: ignore[override]
        """Return the deviation of the noise on the input, as a part of its range."""
        return options.noise
