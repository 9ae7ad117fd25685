"""Feature inversion: an image that a layer cannot tell from the given one; knows no class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_synthesis.base import Held, RobustOptions, given, held_as, make, noise

if TYPE_CHECKING:
    import torch


class FeatureInversionOptions(RobustOptions):
    """Which layer must be satisfied, and how smooth the image is to be."""

    layer: whylight.Layer = whylight.LAST_SPATIAL
    beta: float = Field(2.0, ge=1, le=16, description="Power of the total variation.")
    smoothness: float = Field(0.5, ge=0, description="Weight of the total variation beside the relative distance.")
    parametrisation: Held = "fourier"
    learning_rate: float = Field(0.02, gt=0, le=1000, description="Length of a step, in the optimiser's own measure.")
    jitter: int = Field(0, ge=0, le=256, description="Largest random shift, in pixels.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest random turn, in degrees.")
    scale: float = Field(0.0, ge=0, lt=1, description="Largest random change of size.")


class FeatureInversion(whylight.Synthesis):
    """An image made from what a layer knows of a picture: what it shows is what the layer keeps.

    `argmin_x |Φ(x) - Φ(x₀)|² / |Φ(x₀)|² + λ TV^β(x)` from noise. What an early layer gives is nearly the picture; deep
    ones have forgotten places and colours.

    Use it to compare layers: what the image lacks of the picture, the layer does not tell those behind it.

    Avoid it to find what matters to the answer: what a layer keeps need not be used.
    """

    name = "feature-inversion"
    reference = "Mahendran and Vedaldi, Understanding Deep Image Representations by Inverting Them, CVPR 2015"
    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    takes = ("picture",)
    wants_target = False
    Options = FeatureInversionOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: FeatureInversionOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""

        parts = whylight.synthesis
        picture = given(task, 0)
        layer = subject.resolve_layer(options.layer)
        reference = features_of(subject, picture, (layer,))[layer]
        start = noise(subject, task)

        def checks(images: torch.Tensor) -> dict[str, torch.Tensor]:
            error = (images - picture).square().flatten(1).mean(1)
            return {"psnr": -10 * error.clamp_min(1e-12).log10()}

        yield from make(
            subject,
            task,
            options,
            held_as(options.parametrisation, start),
            [
                parts.FeatureDistance(layer=layer, reference=reference),
                parts.TotalVariation(options.smoothness, beta=options.beta),
            ],
            robustness=options.robustness(),
            checks=checks,
        )

    def cost(self, options: FeatureInversionOptions) -> float:
        """Return the cost of a pass there and back at every step; an early layer costs less."""
        return 3.0 * options.steps


def features_of(subject: whylight.Subject, pictures: torch.Tensor, layers: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return the outputs of `layers` (own names) for pictures `[B, C, H, W]`, without a graph."""
    import torch

    rows = subject.rows_with_gradients()
    parts: dict[str, list[torch.Tensor]] = {layer: [] for layer in layers}
    with torch.no_grad():
        for chunk in torch.split(pictures, rows):
            found = subject.observe(subject.inputs_of(chunk), layers, output=False)
            for layer in layers:
                parts[layer].append(found.layers[layer])
    return {layer: torch.cat(outputs) for layer, outputs in parts.items()}
