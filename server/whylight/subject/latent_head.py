"""The closed form of latents that are an affine function of maps, and of their gradient; knows no batch.

Between an encoder's last maps and the means of its code there mostly lies one linear layer. Then the gradient of each
latent at the maps is the same for every input, and no backward pass is needed for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.subject.gap_head import only_linear

if TYPE_CHECKING:
    from whylight.models.model import Model

_TOLERANCE = 1e-3
"""How far latents may be from the closed form, as a part of the largest, which rounding of narrow types may take."""


@dataclass(frozen=True)
class LatentHead:
    """Latents `[L]` as ``jacobian`` `[L, C, h, w]` times the maps plus `offset` `[L]`."""

    jacobian: Tensor
    offset: Tensor

    def holds(self, maps: Tensor, latents: Tensor) -> bool:
        """Whether these are the latents `[N, L]` of all these maps `[N, ...]`: a network may decide by its input."""
        if maps.shape[1:] != self.jacobian.shape[1:]:
            return False
        expected = maps.flatten(1) @ self.jacobian.flatten(1).T + self.offset
        return bool((expected - latents).abs().max() <= _TOLERANCE * latents.abs().max())


def find_latent_head(model: Model, layer: str, input: Tensor) -> LatentHead | None:
    """Return what makes the latents of the maps of `layer`, or None if it is not an affine function.

    `input` is any one, `[1, C, H, W]`: the graph between the layer and the latents may hold linear operators only.
    """
    if model.latent_shape is None or len(model.latent_shape) != 1 or model.companions:
        return None  # With companions it depends on those of each input.
    with torch.enable_grad():
        ran = model.run(input, split=layer, latents=True)
        if ran.leaf is None or ran.latents is None or not ran.latents.requires_grad or not only_linear(ran.latents):
            return None
        each = [torch.autograd.grad(value, ran.leaf, retain_graph=True)[0][0] for value in ran.latents[0]]
    jacobian = torch.stack(each)
    offset = ran.latents[0].detach() - jacobian.flatten(1) @ ran.leaf[0].detach().flatten()
    return LatentHead(jacobian, offset)
