"""DeepDream: what a layer, or one of its channels, sees in a picture, made stronger; knows no class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_synthesis.base import SynthesisOptions, given

if TYPE_CHECKING:
    import torch


class DeepDreamOptions(SynthesisOptions):
    """Which layer dreams, and at how many scales."""

    layer: whylight.Layer = whylight.LAST_SPATIAL
    channel: int | None = Field(None, ge=0, description="A single filter; none is the whole layer.")
    octaves: int = Field(4, ge=1, le=10, description="Scales at which the picture is worked on, the smallest first.")
    octave_scale: float = Field(
        1.4, gt=1, le=4, description="By what the sides of one scale are longer than the last's."
    )
    steps: int = Field(10, ge=1, le=10_000, description="Steps at each scale.")
    learning_rate: float = Field(
        0.02, gt=0, le=1000, description="By what a step changes pixels, on average; 1 is white."
    )
    optimiser: Literal["adam", "sgd", "normalised"] = "normalised"
    jitter: int = Field(32, ge=0, le=256, description="Largest random shift, in pixels, round the edges.")


class DeepDream(whylight.Synthesis):
    """A picture in which a layer finds more and more of what it looks for.

    Ascent of the mean square of the layer's output (of one channel, with `channel`) from the given picture, at several
    scales: what was added at one is enlarged and taken along to the next, and the picture's own detail is put back.

    Use it to see what a layer, or a channel of it, finds in a picture, and for the pleasure of it.

    Avoid it to explain an answer: it shows what a layer could see, not what it used.
    """

    name = "deepdream"
    reference = "Mordvintsev, Olah and Tyka, Inceptionism: Going Deeper into Neural Networks, Google Research Blog 2015"
    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    takes = ("picture",)
    wants_target = False
    Options = DeepDreamOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: DeepDreamOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        import torch
        import torch.nn.functional as F

        parts = whylight.synthesis
        picture = given(task, 0)
        layer = subject.resolve_layer(options.layer)
        term = parts.Excitation(layer=layer, channels=(options.channel,) * len(picture))
        generators = task.generators()
        sizes = _sizes((picture.shape[2], picture.shape[3]), options)
        dreamt = torch.zeros_like(picture)
        done = 0
        for size in sizes:
            base = _resized(picture, size)
            start = (base + F.interpolate(dreamt, size, mode="bilinear", align_corners=False)).clamp(0, 1)
            images = start
            for step in parts.optimise(
                subject,
                parts.Pixels(start),
                [term],
                steps=options.steps,
                learning_rate=options.learning_rate,
                optimiser=options.optimiser,
                robustness=parts.Robustness(options.jitter),
                generators=generators,
                cancel=task.cancel,
            ):
                if isinstance(step, whylight.Pause):
                    yield step
                    continue
                images = step.images
                shown = _resized(images, sizes[-1])
                yield whylight.Progress(done + step.number, options.steps * len(sizes), step.losses, shown)
            done += options.steps
            dreamt = images - base
        yield whylight.Synthesised(
            images,
            {"excitation_before": _strength(subject, picture, term), "excitation": _strength(subject, images, term)},
        )

    def cost(self, options: DeepDreamOptions) -> float:
        """Return the cost of a pass there and back at every step, smaller scales costing less."""
        share = sum(options.octave_scale ** (-2 * octave) for octave in range(options.octaves))
        return 3.0 * options.steps * share


def _sizes(size: tuple[int, int], options: DeepDreamOptions) -> list[tuple[int, int]]:
    """Return the sizes of the octaves, the smallest first; none so small that a network has nothing left."""
    factors = [options.octave_scale**-octave for octave in reversed(range(options.octaves))]
    sizes = [(round(size[0] * factor), round(size[1] * factor)) for factor in factors]
    return [one for one in sizes if min(one) >= min(32, *size)]


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    import torch.nn.functional as F

    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def _strength(subject: whylight.Subject, images: torch.Tensor, term: whylight.synthesis.Excitation) -> torch.Tensor:
    import torch

    with torch.no_grad():
        found = subject.observe(subject.inputs_of(images), term.reads_layers, output=False)
        return -term.loss(whylight.synthesis.Sight(range(len(images)), images, images, None, found.layers))
