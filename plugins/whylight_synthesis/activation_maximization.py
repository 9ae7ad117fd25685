"""Activation maximisation: an image that a class, a neuron or a channel answers most strongly; knows no file format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

import whylight
from whylight_synthesis.base import (
    Held,
    RobustOptions,
    class_of,
    given,
    held_as,
    make,
    mean_image,
    named,
    noise,
    probabilities,
)
from whylight_synthesis.regularisation import Regulariser, operators_of, terms_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from whylight.synthesis import Parametrisation, Sight, Term


class ActivationMaximizationOptions(RobustOptions):
    """What is maximised, from where, held how, and what keeps it an image."""

    objective: Literal["score", "log-probability", "layer"] = Field(
        "score",
        description="'score': the target itself, a class before the softmax, a neuron, a channel's mean; "
        "'log-probability': of the target's class, against all others; 'layer': the mean square of a whole layer.",
    )
    layer: whylight.Layer = Field(whylight.LAST_SPATIAL, description="The layer of the objective 'layer'.")
    start: Literal["noise", "picture", "mean"] = Field(
        "noise", description="Begin with noise, with the picture given, or with the mean colour of the training data."
    )
    parametrisation: Held = "fourier"
    regularisers: tuple[Regulariser, ...] = Field((), max_length=16, description="What keeps the picture an image.")
    stop_at: float | None = Field(
        None, gt=0, lt=1, description="Finish a picture as soon as the model is so sure of the target's class."
    )


class ActivationMaximization(whylight.Synthesis):
    """An image that makes the model answer as strongly as possible: what a class, a neuron or a channel looks for.

    `argmax_x Φ(x) - λ R(x)`: Φ the target, R the regularisers. Without any, and without movement, the result is noise
    to a person (see fooling-image); the default, a spectrum seen through small movements, is that of Feature
    Visualization.

    Use it to see what a class, a channel or a neuron looks for, without any photo; several seeds show several of its
    faces.

    Avoid it to explain one answer to one photo (that is an attribution's work), and as a picture of the class: it is
    what excites the model most, which need not look like anything that the model was trained on.
    """

    name = "activation-maximization"
    reference = (
        "Erhan et al., Visualizing Higher-Layer Features of a Deep Network, 2009; Simonyan et al., ICLR workshop 2014; "
        "Yosinski et al., ICML workshop 2015; Olah et al., Feature Visualization, Distill 2017"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    takes = ("start?",)
    Options: ClassVar[type[ActivationMaximizationOptions]] = ActivationMaximizationOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: ActivationMaximizationOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        generators = task.generators()
        yield from make(
            subject,
            task,
            options,
            self._held(subject, task, options, generators),
            [self._objective(subject, task, options), *terms_of(options.regularisers)],
            operators=operators_of(options.regularisers),
            robustness=options.robustness(),
            generators=generators,
            stop=self._stop(subject, task, options),
            checks=lambda images: self._checks(subject, task, options, images),
        )

    def takes_target(self, options: ActivationMaximizationOptions) -> bool:
        """Return whether there is something to be sure of, or to score: a layer is named by an option."""
        return options.objective != "layer" or options.stop_at is not None

    def cost(self, options: ActivationMaximizationOptions) -> float:
        """Return the cost of a pass there and back at every step."""
        return 3.0 * options.steps

    def _held(
        self,
        subject: whylight.Subject,
        task: whylight.SynthesisTask,
        options: ActivationMaximizationOptions,
        generators: list[torch.Generator],
    ) -> Parametrisation:
        parts = whylight.synthesis
        if options.start == "noise" and options.parametrisation == "fourier":
            return parts.Fourier.noise((task.pictures.shape[2], *task.size), generators, task.pictures)
        starts = {"noise": noise, "mean": mean_image}
        images = given(task, 0) if options.start == "picture" else starts[options.start](subject, task)
        return held_as(options.parametrisation, images)

    def _objective(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: ActivationMaximizationOptions
    ) -> Term:
        parts = whylight.synthesis
        if options.objective == "layer":
            layer = subject.resolve_layer(options.layer)
            return parts.Excitation(layer=layer, channels=(None,) * len(task.targets))
        if options.objective == "score":
            return parts.Score(aims=tuple(subject.aim(target) for target in named(task)))
        return parts.LogProbability(classes=tuple(class_of(subject, target) for target in named(task)))

    def _stop(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: ActivationMaximizationOptions
    ) -> Callable[[Sight], Tensor] | None:
        level = options.stop_at
        if level is None:
            return None
        wanted = [class_of(subject, target) for target in named(task)]

        def sure(sight: Sight) -> Tensor:
            assert sight.output is not None
            shares = sight.output.softmax(1)
            return shares[range(len(shares)), [wanted[row] for row in sight.rows]] >= level

        return sure

    def _checks(
        self,
        subject: whylight.Subject,
        task: whylight.SynthesisTask,
        options: ActivationMaximizationOptions,
        images: Tensor,
    ) -> dict[str, Tensor]:
        if options.objective == "layer":
            return {}
        aims = [subject.aim(target) for target in named(task)]
        classes = [aim.class_index for aim in aims if aim.class_index is not None]
        return {"probability": probabilities(subject, images, classes)} if len(classes) == len(images) else {}
