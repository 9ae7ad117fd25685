"""Activation maximisation in the code space of a generator; knows no generator's inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_synthesis.base import RobustOptions, class_of, make, named, probabilities
from whylight_synthesis.other_models import Scale, decoder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from whylight.synthesis import Term


class CodeOptions(RobustOptions):
    """Which generator, and how far from its usual codes."""

    generator: whylight.ServedModel = Field(
        description="Name of a served model that takes codes [D, 1, 1] and gives pictures [1 or 3, H, W].",
    )
    pixels: Scale = Field("0..1", description="From where to where the generator's pixels go.")
    objective: Literal["log-probability", "score"] = Field(
        "log-probability", description="'log-probability' of the target's class; 'score': the target itself."
    )
    weight: float = Field(
        0.01, ge=0, description="Weight λ of |z|²; 0.5 with 'log-probability' makes the most probable code."
    )
    deviation: float = Field(1.0, ge=0, le=16, description="Deviation of the normal noise that is the first code.")
    steps: int = Field(150, ge=1, le=100_000, description="Steps of the optimiser.")
    jitter: int = Field(0, ge=0, le=256, description="Largest random shift, in pixels.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest random turn, in degrees.")
    scale: float = Field(0.0, ge=0, lt=1, description="Largest random change of size.")


class ActivationMaximizationCode(whylight.Synthesis):
    """An image that the model answers strongly, among those that a generator can make.

    `max_z log p(c|g(z)) - λ|z|²` over codes `z` from normal noise: the picture looks like what the generator was
    trained on.

    Use it when a free image comes out as a texture and there is a generator of the model's own domain.

    Avoid it to learn what the model knows beside the class: what the picture shows besides is the generator's
    knowledge.
    """

    name = "activation-maximization-code"
    reference = (
        "Nguyen et al., Synthesizing the preferred inputs for neurons in neural networks via deep generator networks, "
        "NIPS 2016"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    Options = CodeOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: CodeOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        parts = whylight.synthesis
        generator = subject.other(options.generator, field="options.generator")
        decode = decoder(generator, options.pixels, task.pictures.shape[2], task.size)
        generators = task.generators()
        held = parts.Code(_codes(generator, generators, options.deviation), decode, options.weight)
        targets = named(task)
        if options.objective == "score":
            aims = tuple(subject.aim(target) for target in targets)
            objective: Term = parts.Score(aims=aims)
            classes = [aim.class_index for aim in aims if aim.class_index is not None]
        else:
            classes = [class_of(subject, target) for target in targets]
            objective = parts.LogProbability(classes=tuple(classes))

        def checks(images: Tensor) -> dict[str, Tensor]:
            found = {"code_length": held.parameter.detach().flatten(1).norm(dim=1)}
            if len(classes) == len(images):
                found["probability"] = probabilities(subject, images, classes)
            return found

        yield from make(
            subject,
            task,
            options,
            held,
            [objective],
            robustness=options.robustness(),
            generators=generators,
            checks=checks,
        )

    def cost(self, options: CodeOptions) -> float:
        """Return the cost of a pass there and back at every step, the generator taken to be as large as the model."""
        return 6.0 * options.steps


def _codes(generator: whylight.Subject, sources: list[torch.Generator], deviation: float) -> Tensor:
    """Return the first codes `[B, D, 1, 1]`, each from its own source."""
    import torch

    shape = (generator.model.input_channels, 1, 1)
    drawn = torch.stack([torch.randn(shape, generator=source, dtype=torch.float64) for source in sources])
    return (deviation * drawn).to(generator.device, generator.model.dtype)
