"""Expected gradients: integrated gradients averaged over many baselines; knows only its definition."""

from __future__ import annotations

from whylight_gradients.expected import Expected


class ExpectedGradients(Expected):
    """Gradient times way, averaged over many baselines and over the paths from them: no single baseline to choose.

    `E_{x' ~ D, α ~ U(0, 1)} Σ_c (x_c − x'_c) ∂y/∂x_c (x' + α (x − x'))`, by drawing. It sums to `f(x) − E f(x')`, but
    for the error of drawing. The paper draws `D` from the training data, which a server does not have: here `D` is a
    mixture of images made without data, `baselines`, by default black, white, blurred, noise and the input's own pixels
    shuffled.

    Its checks: "completeness_residual" is the map's sum minus `f(x) − E f(x')` with the drawn baselines,
    "score_difference" that difference.

    Costs `samples` passes forward and back, and a pass forward for each baseline; the error falls with the square root
    of `samples`.

    Use it where integrated-gradients changes with its baseline.

    Avoid it for the question "why this, and not another photo": what is explained is "why this, and not a picture
    without content". For the other one integrated-gradients and a baseline of yours would be needed.
    """

    name = "expected-gradients"
    reference = (
        "Erion et al., Improving performance of deep learning models with axiomatic attribution priors and expected "
        "gradients, Nature Machine Intelligence 3, 2021"
    )
