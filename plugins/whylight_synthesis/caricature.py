"""Caricature: what a layer finds in a picture, exaggerated; knows no class."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

import whylight
from whylight_synthesis.base import RobustOptions, given, make
from whylight_synthesis.feature_inversion import features_of


class CaricatureOptions(RobustOptions):
    """Which layer draws."""

    layer: whylight.Layer = whylight.LAST_SPATIAL
    power: float = Field(
        1.0, ge=0, le=16, description="Power of the cosine: the higher it is, the more like the picture it stays."
    )


class Caricature(whylight.Synthesis):
    """A picture drawn again from a layer's answer to it, what the layer finds in it exaggerated.

    `argmax_x cos(Φ(x), Φ(x₀))^p Φ(x)·Φ(x₀)` from noise, as a spectrum of decorrelated colours seen through movements.

    Use it to see what of a picture a layer makes much of.

    Avoid it to see what a layer keeps of a picture, without exaggeration: that is feature-inversion.
    """

    name = "caricature"
    reference = (
        "Olah et al., Feature Visualization, Distill 2017; Lucid, notebook 'Feature inversion: caricatures', 2018"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    takes = ("picture",)
    wants_target = False
    Options = CaricatureOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: CaricatureOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        parts = whylight.synthesis
        picture = given(task, 0)
        layer = subject.resolve_layer(options.layer)
        direction = features_of(subject, picture, (layer,))[layer]
        generators = task.generators()
        yield from make(
            subject,
            task,
            options,
            parts.Fourier.noise(tuple(picture.shape[1:]), generators, picture),
            [parts.CosineSimilarity(layer=layer, direction=direction, power=options.power)],
            robustness=options.robustness(),
            generators=generators,
        )

    def cost(self, options: CaricatureOptions) -> float:
        """Return the cost of a pass there and back at every step."""
        return 3.0 * options.steps
