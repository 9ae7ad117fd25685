"""Taylor decomposition: the first-order expansion of the target at a root point; knows only its definition."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_gradients.baselines import baseline
from whylight_gradients.path import completeness, scores_at

if TYPE_CHECKING:
    import torch

HALVINGS = 12
"""Steps of the search for the place where the target is zero: to a 4096th of the way."""


class TaylorOptions(whylight.Options):
    """The root point, and where the gradient is taken."""

    root: Literal["zero", "black", "white", "mean", "blur"] = Field(
        "mean",
        description="The point from which the input is measured: 'zero' in the units that the network sees (then it is "
        "input-x-gradient); 'black' or 'white' as the picture was before it was normalised; 'mean', the input's own "
        "mean colour; 'blur', the input strongly blurred.",
    )
    search: bool = Field(
        False,
        description="Go from the input towards the root only until the target falls to zero: a true root point, if "
        "there is one on the way; 12 more passes forward. The check 'root_score' says what was found.",
    )
    gradient_at: Literal["input", "root"] = Field(
        "input", description="Where the gradient is taken: at the input, or at the root point, as Taylor's theorem has."
    )


class Taylor(whylight.Attribution):
    """Difference of the input from a root point, times the gradient: what each pixel adds, to first order.

    `Σ_c (x_c − x̃_c) ∂y/∂x_c`, the gradient at `x` or, by option, at the root point `x̃`, where the target ought to be
    zero.

    Its checks: "root_score" is the target at `x̃`; "score_difference" is `f(x) − f(x̃)`, and "completeness_residual"
    the map's sum minus that: what the first order leaves out, which for deep networks is much.

    Costs a pass forward and one back, one forward for the root, and with `search` 12 more.

    Use it to ask "compared to what?": unlike input-x-gradient, a pixel that is as in the root point gets nothing,
    whatever the units.

    Avoid it where shares must add up: take integrated-gradients or deeplift from the same baseline.
    """

    name = "taylor"
    reference = (
        "Montavon et al., Explaining NonLinear Classification Decisions with Deep Taylor Decomposition, Pattern "
        "Recognition 65, 2017, section 2"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    Options = TaylorOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: TaylorOptions) -> whylight.Maps:
        """Return the maps `[M, H, W]` at the size of the input, and their checks."""
        import torch

        rows = list(batch.rows)
        scores = subject.scores(batch)
        far = baseline(subject, batch, options.root)
        if not options.search:
            root, root_scores = far[rows], scores_at(subject, batch, [far])[0]
            gradients = (
                subject.input_gradients(batch)
                if options.gradient_at == "input"
                else next(subject.altered_gradients(batch, 1, lambda _: far)).gradients
            )
        else:
            # Each target falls to zero somewhere else: from here on every target has an input of its own.
            each = dataclasses.replace(
                batch,
                inputs=batch.inputs[rows],
                rows=tuple(range(len(rows))),
                seeds=tuple(batch.seeds[row] for row in rows) if batch.seeds else (),
                companions=batch.companions_at(torch.tensor(rows, device=batch.inputs.device)),
            )
            alone = subject.model.subject(batch.cancel)
            root = _root(alone, each, far[rows])
            root_scores = scores_at(alone, each, [root])[0]
            gradients = (
                subject.input_gradients(batch)
                if options.gradient_at == "input"
                else next(alone.altered_gradients(each, 1, lambda _: root)).gradients
            )
        maps = ((batch.inputs[rows] - root) * gradients).sum(1)
        checks = completeness(maps, scores, root_scores)
        return whylight.Maps(maps, {"root_score": root_scores.to(torch.float64), **checks})

    def presentation(self, options: TaylorOptions) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: TaylorOptions) -> float:
        """Return the cost of a pass forward and one back, of the root's, and of the search."""
        return 3.0 + (options.gradient_at == "root") + (1.0 + HALVINGS if options.search else 0.0)

    def cost_per_target(self, options: TaylorOptions) -> float:
        """Return the cost of one more pass back; with a search, which each target has for itself, that of all."""
        return self.cost(options) - 1.0 if options.search else 1.0


def _root(subject: whylight.Subject, batch: whylight.Batch, far: torch.Tensor) -> torch.Tensor:
    """Return points `[N, C, H, W]` between inputs and `far` where the targets fall to zero, by halving the way.

    The end with the value nearer to that of `far` is kept: the target there is not positive, where it is not at `far`.
    Where it is positive even there, that is where the search ends: at `far`.
    """
    import torch

    shape = (-1, 1, 1, 1)
    beyond = torch.ones(len(far), dtype=far.dtype, device=far.device)
    before = torch.zeros_like(beyond)
    for _ in range(HALVINGS):
        middle = (before + beyond) / 2
        point = torch.lerp(batch.inputs, far, middle.view(shape))
        fallen = scores_at(subject, batch, [point])[0] <= 0
        beyond = torch.where(fallen, middle, beyond)
        before = torch.where(fallen, before, middle)
    return torch.lerp(batch.inputs, far, beyond.view(shape))
