"""The closed form of the gradient of latents that are an affine function of maps; knows no batch.

Between an encoder's last maps and the means of its code there mostly lies one linear layer. Then the gradient of each
latent at the maps is the same for every input, and no backward pass is needed for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.subject.gap_head import only_linear

if TYPE_CHECKING:
    from whylight.models.model import Model


def find_latent_jacobian(model: Model, layer: str, input: Tensor) -> Tensor | None:
    """Return the gradient of each latent at the maps of `layer`, `[L, C, h, w]`, or None if it depends on the input.

    `input` is any one, `[1, C, H, W]`: the graph between the layer and the latents may hold linear operators only.
    """
    if model.latent_shape is None or len(model.latent_shape) != 1 or model.companions:
        return None  # With companions it depends on those of each input.
    with torch.enable_grad():
        ran = model.run(input, split=layer, latents=True)
        if ran.leaf is None or ran.latents is None or not ran.latents.requires_grad or not only_linear(ran.latents):
            return None
        each = [torch.autograd.grad(value, ran.leaf, retain_graph=True)[0][0] for value in ran.latents[0]]
    return torch.stack(each)
