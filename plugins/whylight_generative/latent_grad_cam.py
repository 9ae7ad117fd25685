"""Heat maps of an autoencoder's latents: where in the picture each of them looks; knows no decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight

if TYPE_CHECKING:
    import torch


USUAL_LATENTS = 128
"""Latents of a usual autoencoder, with which costs count where the model is not known."""


class LatentGradCAMOptions(whylight.Options):
    """At which layer, and of which latents."""

    layer: whylight.Layer = whylight.LAST_SPATIAL
    latents: Literal["target", "mean"] = Field(
        "target", description="'target': the map of the target; 'mean': the mean of the maps of all latents."
    )


class LatentGradCAM(whylight.Attribution):
    """Where a latent of an autoencoder looks: Grad-CAM of the latent, or the mean map of all latents.

    `M_i = ReLU(Σ_k α_k A_k)` with `α_k = mean_pq ∂z_i/∂A_k^pq`, equations 2 and 3 of the paper; with `latents` "mean",
    `mean_i M_i`. Name the latents as targets, all of them if you like: between the last maps and the means lies an
    affine function, whose gradient is the same for every picture, so that 200 cost hardly more than one.

    Use it to see whether a latent stands for a part of the picture, and to find what an autoencoder trained on good
    pieces finds odd (the mean map).

    Avoid it for a latent whose divergence is near 0 (see `reconstruction`): it holds nothing.
    """

    name = "latent-grad-cam"
    reference = "Liu et al., Towards Visually Explaining Variational Autoencoders, CVPR 2020"
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.SPATIAL_LAYER, whylight.Need.LATENTS})
    Options = LatentGradCAMOptions

    def attribute(
        self, subject: whylight.Subject, batch: whylight.Batch, options: LatentGradCAMOptions
    ) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` at the resolution of the layer."""
        if options.latents == "target":
            activations, gradients = subject.layer_gradients(batch, options.layer)
            return whylight.ops.cam_pool(activations, gradients, "grad-cam", batch.rows)
        count = (subject.model.latent_shape or (0,))[0]
        rows = tuple(row for row in range(len(batch.inputs)) for _ in range(count))
        latents = tuple(whylight.Latent(index) for _ in range(len(batch.inputs)) for index in range(count))
        every = whylight.Batch(batch.inputs, latents, rows, batch.cancel, batch.seeds, companions=batch.companions)
        activations, gradients = subject.layer_gradients(every, options.layer)
        maps = whylight.ops.cam_pool(activations, gradients, "grad-cam", rows).relu()
        means = maps.view(len(batch.inputs), count, *maps.shape[1:]).mean(1)
        return means[list(batch.rows)]

    def presentation(self, options: LatentGradCAMOptions) -> whylight.Presentation:
        """Say that the definition ends in a ReLU."""
        return whylight.Presentation(rectified=True)

    def costs_on(self, model: whylight.Model, options: LatentGradCAMOptions) -> tuple[float, float]:
        """Return the costs where the number of latents is known, and whether a pass back is needed for each of them."""
        if model.has_latent_head(model.layer(options.layer).name):
            return 1.0, 0.01
        return self._costs(options, (model.latent_shape or (1,))[0])

    def cost(self, options: LatentGradCAMOptions) -> float:
        """Return the cost where what lies behind the layer is not linear, with a usual number of latents."""
        return self._costs(options, USUAL_LATENTS)[0]

    def cost_per_target(self, options: LatentGradCAMOptions) -> float:
        """Return the cost of one more pass back to the layer; of means, all of which share theirs, of nothing more."""
        return self._costs(options, USUAL_LATENTS)[1]

    def _costs(self, options: LatentGradCAMOptions, latents: int) -> tuple[float, float]:
        back = 0.1 if options.layer == whylight.LAST_SPATIAL else 1.0
        return (1.0 + back, back) if options.latents == "target" else (1.0 + back * latents, 0.01)
