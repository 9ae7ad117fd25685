"""Style transfer: one picture's content in another one's texture; knows no class."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

import whylight
from whylight_synthesis.base import Held, SynthesisOptions, given, held_as, make
from whylight_synthesis.feature_inversion import features_of
from whylight_synthesis.texture_synthesis import style_term


class StyleTransferOptions(SynthesisOptions):
    """What counts as content and as style, and how much each counts."""

    content_layer: whylight.Layer = whylight.LAST_SPATIAL
    style_layers: tuple[whylight.Layer, ...] = Field(
        (),
        max_length=32,
        description="Layers whose Gram matrices are matched; none means five spread over the network.",
    )
    style_layer_weights: tuple[float, ...] = Field(
        (), max_length=32, description="Weight of each style layer; none means that all count the same at the start."
    )
    content: float = Field(1.0, ge=0, description="Weight α of the content, whose distance is relative.")
    style: float = Field(10.0, ge=0, description="Weight β of the style, whose distance is 1 at the start.")
    smoothness: float = Field(0.5, ge=0, description="Weight of the total variation.")
    parametrisation: Held = "fourier"
    steps: int = Field(300, ge=1, le=100_000, description="Steps of the optimiser.")
    learning_rate: float = Field(0.02, gt=0, le=1000, description="Length of a step, in the optimiser's own measure.")


class StyleTransfer(whylight.Synthesis):
    """The content of one picture painted in the style of another.

    `argmin_x α |Φ(x) - Φ(content)|² / |Φ(content)|² + β Σ_l w_l |G_l(x) - G_l(style)|² + γ TV(x)` from the content.

    Use it to see that a network holds content and style apart, and to choose how much of each.

    Avoid it with networks of residual blocks and few pooling layers as they come: VGG's layers are what the method was
    made on, and others give weaker styles.
    """

    name = "style-transfer"
    reference = "Gatys, Ecker and Bethge, Image Style Transfer Using Convolutional Neural Networks, CVPR 2016"
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.SPATIAL_LAYER})
    takes = ("content", "style")
    wants_target = False
    Options = StyleTransferOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: StyleTransferOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        parts = whylight.synthesis
        style, content = given(task, 1), given(task, 0)
        layer = subject.resolve_layer(options.content_layer)
        reference = features_of(subject, content, (layer,))[layer]
        terms = [
            parts.FeatureDistance(options.content, layer=layer, reference=reference),
            style_term(subject, style, content, options.style_layers, options.style_layer_weights, options.style),
            parts.TotalVariation(options.smoothness),
        ]
        yield from make(subject, task, options, held_as(options.parametrisation, content), terms)

    def cost(self, options: StyleTransferOptions) -> float:
        """Return the cost of a pass there and back at every step."""
        return 3.0 * options.steps
