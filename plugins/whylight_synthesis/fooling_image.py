"""Fooling images: what the model is sure of and a person is not; knows no defence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_synthesis.base import SynthesisOptions, class_of, given, make, named, noise, probabilities

if TYPE_CHECKING:
    from torch import Tensor

    from whylight.synthesis import Sight


class FoolingOptions(SynthesisOptions):
    """From where, and how far it may go."""

    start: Literal["noise", "picture"] = Field(
        "noise", description="'noise': an image of nothing; 'picture': the least change of the picture given."
    )
    confidence: float = Field(0.99, gt=0, lt=1, description="Finish as soon as the model is so sure of the target.")
    norm: Literal["inf", "l2"] = Field(
        "inf", description="What is bounded of the change: 'inf', that of any pixel; 'l2', its root mean square."
    )
    budget: float = Field(2 / 255, gt=0, le=1, description="Bound of the change of the picture given; 1 is white.")
    distance: float = Field(
        0.0, ge=0, description="Weight of the mean squared change, so that of the allowed ones a small one is found."
    )
    learning_rate: float = Field(0.002, gt=0, le=1000, description="Length of a step, in the optimiser's own measure.")


class FoolingImage(whylight.Synthesis):
    """An image that the model takes for the target with confidence, though it shows nothing of the kind.

    Ascent of the target's log-probability, pixel by pixel and with no regulariser: from noise (Nguyen et al.), or from
    a picture, no pixel further from it than `budget` (Szegedy et al.), until the model is as sure as `confidence`. With
    the norm 'l2' it is the root mean square of the change that stays within `budget`; single pixels may change more.

    Use it to show that confidence is not understanding, and to see how small a change is enough.

    Avoid it as a measure of robustness: it is one attack, and not the strongest.
    """

    name = "fooling-image"
    reference = (
        "Szegedy et al., Intriguing properties of neural networks, ICLR 2014; Nguyen, Yosinski and Clune, Deep Neural "
        "Networks are Easily Fooled, CVPR 2015"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    takes = ("picture?",)
    Options = FoolingOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: FoolingOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        parts = whylight.synthesis
        classes = tuple(class_of(subject, target) for target in named(task))
        from_picture = options.start == "picture"
        start = given(task, 0) if from_picture else noise(subject, task)
        terms: list[whylight.synthesis.Term] = [parts.LogProbability(classes=classes)]
        operators: list[whylight.synthesis.Operator] = []
        held = parts.Pixels(start)
        if from_picture:
            terms.append(parts.ImageDistance(options.distance, reference=start))
            if options.norm == "inf":
                low, high = (start - options.budget).clamp(0, 1), (start + options.budget).clamp(0, 1)
                held = parts.Pixels(start, low=low, high=high)
            else:
                operators.append(parts.StayNear(reference=start, radius=options.budget * start[0].numel() ** 0.5))

        def sure(sight: Sight) -> Tensor:
            assert sight.output is not None
            shares = sight.output.softmax(1)
            return shares[range(len(shares)), [classes[row] for row in sight.rows]] >= options.confidence

        def checks(images: Tensor) -> dict[str, Tensor]:
            found = {"probability": probabilities(subject, images, classes)}
            if from_picture:
                change = (images - start).flatten(1)
                found["largest_change"] = change.abs().amax(1)
                found["root_mean_square_change"] = change.square().mean(1).sqrt()
            return found

        yield from make(subject, task, options, held, terms, operators=operators, stop=sure, checks=checks)

    def cost(self, options: FoolingOptions) -> float:
        """Return the cost of a pass there and back at every step; it may end much earlier."""
        return 3.0 * options.steps
