"""What the methods of this package have in common: their options, their start, their way through the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

import whylight

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from whylight.synthesis import Operator, Parametrisation, Robustness, Sight, Term


Held: TypeAlias = Annotated[
    Literal["fourier", "pixels"],
    Field(description="Change the spectrum of decorrelated colours, or the pixels themselves."),
]


class SynthesisOptions(whylight.PlainOptions):
    """How long and how fast a picture is changed."""

    steps: int = Field(256, ge=1, le=100_000, description="Steps of the optimiser.")
    learning_rate: float = Field(0.02, gt=0, le=1000, description="Length of a step, in the optimiser's own measure.")
    optimiser: Literal["adam", "sgd", "normalised"] = Field(
        "adam",
        description="'adam'; 'sgd', plain gradient descent; 'normalised', along the gradient divided by its root mean "
        "square, so that a step changes pixels by the learning rate on average.",
    )


class RobustOptions(SynthesisOptions):
    """How the model looks at the picture at each step."""

    jitter: int = Field(8, ge=0, le=256, description="Largest random shift, in pixels.")
    rotate: float = Field(10.0, ge=0, le=180, description="Largest random turn, in degrees.")
    scale: float = Field(0.15, ge=0, lt=1, description="Largest random change of size: 0.1 is from 0.9 to 1.1.")

    pad: int = Field(0, ge=0, le=256, description="Width of a grey frame around what it sees, in pixels.")
    crop: float = Field(0.0, ge=0, lt=1, description="Largest share of the sides that it does not see, at random.")

    def robustness(self) -> Robustness:
        """Return the movements that these options ask for."""
        return whylight.synthesis.Robustness(self.jitter, self.rotate, self.scale, self.pad, self.crop)


def make(
    subject: whylight.Subject,
    task: whylight.SynthesisTask,
    options: SynthesisOptions,
    held: Parametrisation,
    terms: Sequence[Term],
    *,
    operators: Sequence[Operator] = (),
    robustness: Robustness | None = None,
    generators: Sequence[torch.Generator] | None = None,
    stop: Callable[[Sight], Tensor] | None = None,
    checks: Callable[[Tensor], dict[str, Tensor]] | None = None,
) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
    """Go through the loop of `whylight.synthesis.optimise`, and end with the images and `checks` of them.

    The terms' last values are among the checks, each under its name with "_loss" behind it.
    """
    last = None
    for step in whylight.synthesis.optimise(
        subject,
        held,
        terms,
        steps=options.steps,
        learning_rate=options.learning_rate,
        optimiser=options.optimiser,
        robustness=robustness,
        operators=operators,
        generators=task.generators() if generators is None else generators,
        stop=stop,
        cancel=task.cancel,
    ):
        if isinstance(step, whylight.Pause):
            yield step
            continue
        last = step
        yield whylight.Progress(step.number, step.total, step.losses, step.images)
    assert last is not None
    found = {f"{name}_loss": values for name, values in last.losses.items()}
    yield whylight.Synthesised(last.images, {**found, **(checks(last.images) if checks else {})})


def held_as(held: Held, start: Tensor) -> Parametrisation:
    """Return what holds images that begin as `start` `[B, C, H, W]`."""
    return whylight.synthesis.Fourier(start) if held == "fourier" else whylight.synthesis.Pixels(start)


def given(task: whylight.SynthesisTask, place: int) -> Tensor:
    """Return the pictures `[B, C, H, W]` that the callers gave at `place` of what the method takes.

    Raises:
        InvalidInput: there is none.
    """
    if task.pictures.shape[1] <= place:
        raise whylight.InvalidInput(
            f"this method needs {place + 1} pictures; there are {task.pictures.shape[1]}", field="inputs"
        )
    return task.pictures[:, place]


def named(task: whylight.SynthesisTask) -> list[whylight.Target]:
    """Return the targets, none of which is missing.

    Raises:
        InvalidInput: the caller named none.
    """
    targets = [target for target in task.targets if target is not None]
    if len(targets) < len(task.targets):
        raise whylight.InvalidInput("this method needs a target: a class, or a neuron", field="targets")
    return targets


def noise(subject: whylight.Subject, task: whylight.SynthesisTask, centre: float = 0.5, sd: float = 0.05) -> Tensor:
    """Return images of normal noise around a grey, each from its own seed, `[B, C, H, W]`."""
    import torch

    shape = (task.pictures.shape[2], *task.size)
    drawn = [torch.randn(shape, generator=g, dtype=torch.float64) for g in task.generators()]
    return (centre + sd * torch.stack(drawn)).clamp(0, 1).to(task.pictures)


def mean_image(subject: whylight.Subject, task: whylight.SynthesisTask) -> Tensor:
    """Return the image that is 0 in the model's own units, the mean colour of its training data, `[B, C, H, W]`."""
    shape = (len(task.targets), task.pictures.shape[2], *task.size)
    return subject.images_of(task.pictures.new_zeros(shape))


def class_of(subject: whylight.Subject, target: whylight.Target) -> int:
    """Return the class that a target means.

    Raises:
        InvalidInput: it means something else. NotFound: no class has this label.
    """
    index = subject.aim(target).class_index
    if index is None:
        raise whylight.InvalidInput("this needs a class as its target", reason="TARGET_INVALID", field="targets")
    return index


def probabilities(subject: whylight.Subject, images: Tensor, classes: Sequence[int]) -> Tensor:
    """Return how sure the model is that each image shows its class, `[B]`."""
    import torch

    scores = torch.softmax(subject.forward(subject.inputs_of(images)), 1)
    return scores[torch.arange(len(images), device=scores.device), torch.tensor(classes, device=scores.device)]
