"""Texture synthesis: an image with a picture's statistics and not its layout; knows no class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_synthesis.base import Held, SynthesisOptions, given, held_as, make, noise
from whylight_synthesis.feature_inversion import features_of

if TYPE_CHECKING:
    from torch import Tensor

    from whylight.synthesis import GramDistance


MOST_CHANNELS = 512


class TextureOptions(SynthesisOptions):
    """Whose statistics, and how much each counts."""

    layers: tuple[whylight.Layer, ...] = Field(
        (),
        max_length=32,
        description="Layers whose Gram matrices are matched; none means five spread over the network.",
    )
    weights: tuple[float, ...] = Field(
        (), max_length=32, description="Weight of each layer; none means that all count the same at the start."
    )
    parametrisation: Held = "fourier"
    learning_rate: float = Field(0.02, gt=0, le=1000, description="Length of a step, in the optimiser's own measure.")


class TextureSynthesis(whylight.Synthesis):
    """An image of the same texture as a picture: its Gram matrices match, its places do not.

    `argmin_x Σ_l w_l |G_l(x) - G_l(x₀)|²` from noise, G_l the products of a layer's channels added over all positions.

    Use it to see what a layer knows when it is not asked where.

    Avoid it for pictures with one object or an order in space, which is what gets lost.
    """

    name = "texture-synthesis"
    reference = "Gatys, Ecker and Bethge, Texture Synthesis Using Convolutional Neural Networks, NIPS 2015"
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.SPATIAL_LAYER})
    stochastic = True
    takes = ("texture",)
    wants_target = False
    Options = TextureOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: TextureOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        start = noise(subject, task)
        term = style_term(subject, given(task, 0), start, options.layers, options.weights, 1.0)
        yield from make(subject, task, options, held_as(options.parametrisation, start), [term])

    def cost(self, options: TextureOptions) -> float:
        """Return the cost of a pass there and back at every step."""
        return 3.0 * options.steps


def style_term(
    subject: whylight.Subject,
    style: Tensor,
    start: Tensor,
    layers: tuple[str, ...],
    weights: tuple[float, ...],
    weight: float,
) -> GramDistance:
    """Return the distance to the styles' Gram matrices, each layer's divided by what it is at `start`.

    Raises:
        InvalidInput: there are not as many weights as layers.
    """
    import torch

    names = tuple(subject.resolve_layer(layer) for layer in layers) or spread_layers(subject)
    if weights and len(weights) != len(names):
        raise whylight.InvalidInput(
            f"there are {len(weights)} weights for {len(names)} layers",
            reason="OPTION_INVALID",
            field="options.weights",
        )
    grams = {
        name: torch.cat([whylight.ops.gram(one) for one in torch.split(found, 1)])  # alone, for the bits it has alone
        for name, found in features_of(subject, style, names).items()
    }
    before = features_of(subject, start, names)
    scaled = {}
    for name, share in zip(names, weights or (1 / len(names),) * len(names), strict=True):
        distances = [
            whylight.ops.gram_loss(one, gram)
            for one, gram in zip(torch.split(before[name], 1), torch.split(grams[name], 1), strict=True)
        ]
        scaled[name] = share / torch.cat(distances).clamp_min(1e-12)
    return whylight.synthesis.GramDistance(weight, references=grams, layer_weights=scaled)


def spread_layers(subject: whylight.Subject, count: int = 5) -> tuple[str, ...]:
    """Return layers with weights and maps, one at each resolution, `count` at most, the finest first.

    At each resolution it is the last one that is not inside another of the same, which has seen most. Those of more
    than 512 channels are left out: of a small map they say less than they cost.
    """
    shapes = {layer.name: layer.output_shape for layer in subject.model.layers}
    chosen: dict[int, str] = {}
    for layer in subject.model.layers:
        spatial = len(layer.output_shape) == 3 and layer.output_shape[1] * layer.output_shape[2] >= 16
        if not spatial or layer.parameter_count == 0 or layer.output_shape[0] > MOST_CHANNELS:
            continue
        outer = shapes.get(layer.name.rpartition(".")[0], ())
        if tuple(outer[1:]) != layer.output_shape[1:]:
            chosen[layer.output_shape[1]] = layer.name
    return tuple(chosen[side] for side in sorted(chosen, reverse=True))[:count]
