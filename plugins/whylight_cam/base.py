"""What the methods have in common: layers, their maps fused, smoothing; knows neither networks nor pictures."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

import whylight
from whylight_cam.fusing import Fuse, fuse
from whylight_cam.smoothing import COPIES, SMOOTH, smoothed

if TYPE_CHECKING:
    import torch

Scheme = Literal["grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam"]


class LayerOptions(whylight.Options):
    """Options of a method that looks at one layer, or at several."""

    layer: whylight.Layer = whylight.LAST_SPATIAL
    layers: tuple[whylight.Layer, ...] = Field(
        (),
        max_length=32,
        description="Several layers in place of `layer`: their maps, each normalised and resized, are fused into one.",
    )
    fuse: Fuse = Field("mean", description="How the maps of several layers become one: their mean or their maximum.")


class SmoothOptions(LayerOptions):
    """Options of a method that can be smoothed besides."""

    smooth: bool = Field(False, description=SMOOTH)


class LayerMap(whylight.Attribution):
    """A map that is made at a layer; with several layers, their maps fused.

    A subclass says what the map of one layer is. It is the sum before the final ReLU of the papers: the server applies
    that, where the profile has it, while it draws; maps that are fused are rectified before.
    """

    needs = frozenset({whylight.Need.SPATIAL_LAYER})
    Options = LayerOptions

    @abc.abstractmethod
    def maps_at(self, subject: whylight.Subject, batch: whylight.Batch, layer: str, options: Any) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` of one layer, at its resolution."""

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: Any) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` of the layer; of several layers fused ones, in 0..1."""
        if not options.layers:
            return self.maps_at(subject, batch, options.layer, options)
        maps = [self.maps_at(subject, batch, layer, options) for layer in options.layers]
        size = (batch.inputs.shape[2], batch.inputs.shape[3])
        return fuse(maps, options.fuse, whylight.PROFILES[options.profile], size, rectified=True)

    def presentation(self, options: Any) -> whylight.Presentation:
        """Say that the definition ends in a ReLU."""
        return whylight.Presentation(rectified=True)

    def cost(self, options: Any) -> float:
        """Return the cost of a pass forward and one back to the layer: at most as much, from the last one little."""
        return sum(1.0 if layer == whylight.LAST_SPATIAL else 2.0 for layer in places(options))

    def cost_per_target(self, options: Any) -> float:
        """Return the cost of one more pass back to the layer; all targets share the forward pass."""
        return sum(0.1 if layer == whylight.LAST_SPATIAL else 1.0 for layer in places(options))


class GradientMap(LayerMap):
    """A map that is made of activations and gradients alone, so that it can be smoothed."""

    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.SPATIAL_LAYER})
    Options = SmoothOptions

    @abc.abstractmethod
    def pool(
        self, activations: torch.Tensor, gradients: torch.Tensor, rows: Sequence[int], options: Any
    ) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` of activations `[N, C, h, w]` and gradients `[M, C, h, w]`."""

    def maps_at(self, subject: whylight.Subject, batch: whylight.Batch, layer: str, options: Any) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` of one layer."""
        activations, gradients = subject.layer_gradients(batch, layer)
        return self.pool(activations, gradients, batch.rows, options)

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: Any) -> torch.Tensor:
        """Return the raw maps `[M, h, w]`; of several layers, or smoothed, maps in 0..1."""
        if not options.smooth:
            return super().attribute(subject, batch, options)
        return smoothed(
            subject,
            batch,
            places(options),
            lambda activations, gradients, rows: self.pool(activations, gradients, rows, options),
            options.fuse,
            whylight.PROFILES[options.profile],
            rectified=True,
        )

    def cost(self, options: Any) -> float:
        """Return the cost of a pass there and back for each layer and each copy."""
        return super().cost(options) * (len(COPIES) if options.smooth else 1)

    def cost_per_target(self, options: Any) -> float:
        """Return the cost of one more pass back for each layer and each copy."""
        return super().cost_per_target(options) * (len(COPIES) if options.smooth else 1)


class ClassActivationMap(GradientMap):
    """A weighted sum of the channels of a layer.

    A subclass names the `scheme` of `whylight.ops.cam_pool` that defines its weights.
    """

    scheme: ClassVar[Scheme]

    def pool(
        self, activations: torch.Tensor, gradients: torch.Tensor, rows: Sequence[int], options: Any
    ) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` by the scheme."""
        return pooled(activations, gradients, rows, self.scheme, options)


def places(options: LayerOptions) -> tuple[str, ...]:
    """Return the layers that are looked at."""
    return options.layers or (options.layer,)


def pooled(
    activations: torch.Tensor,
    gradients: torch.Tensor,
    rows: Sequence[int],
    scheme: Scheme,
    options: whylight.Options,
) -> torch.Tensor:
    """Return the raw maps `[M, h, w]` by a scheme, with what the caller's profile adds to its denominators."""
    profile = whylight.PROFILES[options.profile]
    eps = {"grad-cam++": profile.grad_cam_plus_plus_eps, "xgrad-cam": profile.xgrad_cam_eps}.get(scheme, 0.0)
    return whylight.ops.cam_pool(activations, gradients, scheme, rows, eps=eps)


def weighted(activations: torch.Tensor, weights: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Return the sum of channels `[N, C, h, w]`, each times its weight `[M, C]` for the target: maps `[M, h, w]`."""
    # A weight that is the same at every position is its own mean over space, which Grad-CAM takes.
    everywhere = weights.to(activations.dtype)[:, :, None, None].expand(-1, -1, *activations.shape[2:])
    return whylight.ops.cam_pool(activations, everywhere, "grad-cam", rows)
