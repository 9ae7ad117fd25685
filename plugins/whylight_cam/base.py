"""What the six methods have in common: a layer, its gradients, one pooling; knows neither networks nor pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import whylight

if TYPE_CHECKING:
    import torch


class LayerOptions(whylight.Options):
    """Options of a method that looks at one layer."""

    layer: whylight.Layer = whylight.LAST_SPATIAL


class ClassActivationMap(whylight.Attribution):
    """A weighted sum of the channels of a layer.

    A subclass names the `scheme` of `whylight.ops.cam_pool` that defines its weights. The map is the sum before the
    final ReLU of the papers: the server applies that, where the profile has it, while it draws.
    """

    scheme: ClassVar[str]
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.SPATIAL_LAYER})
    Options = LayerOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: LayerOptions) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` at the resolution of the layer."""
        activations, gradients = subject.layer_gradients(batch, options.layer)
        return whylight.ops.cam_pool(activations, gradients, self.scheme, batch.rows, eps=self.eps(options))

    def eps(self, options: LayerOptions) -> float:
        """Return what the caller's profile adds to the denominator of the weights."""
        return 0.0

    def presentation(self, options: LayerOptions) -> whylight.Presentation:
        """Say that the definition ends in a ReLU."""
        return whylight.Presentation(rectified=True)

    def cost(self, options: LayerOptions) -> float:
        """Return the cost of a pass forward and one back to the layer: at most as much, from the last one little."""
        return 1.0 if options.layer == whylight.LAST_SPATIAL else 2.0

    def cost_per_target(self, options: LayerOptions) -> float:
        """Return the cost of one more pass back to the layer; all targets share the forward pass."""
        return 0.1 if options.layer == whylight.LAST_SPATIAL else 1.0
