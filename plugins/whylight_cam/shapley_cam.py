"""Shapley-CAM; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight
from whylight_cam.base import LayerMap, LayerOptions, places

if TYPE_CHECKING:
    import torch


class ShapleyCAM(LayerMap):
    """Grad-CAM with the second-order term of the channels' Shapley values: what channels do together counts.

    `ReLU(Σ_k w_k A_k)` with `w_k = mean_ij (g - ½ H A)_k,ij`, where `g` is the gradient of the target with respect to
    the layer and `H A` its Hessian times the activations: a Taylor expansion of the target to second order around
    the activations. Where the network goes on piecewise linearly from the layer (ReLU, pooling, linear layers) `H` is 0
    and the map is Grad-CAM's; it differs with SiLU, GELU, hardswish, gates, attention and normalised outputs.

    Costs a pass forward, one back, and the derivative of that one: three times Grad-CAM at the same layer.

    Use it at layers with a curved network behind them, and with targets such as probabilities.

    Avoid it at the last layer of a network that goes on with pooling and a linear layer: there it is Grad-CAM.
    """

    name = "shapley-cam"
    reference = "Cai, CAMs as Shapley Value-based Explainers, arXiv:2501.06261"
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.SPATIAL_LAYER})

    def maps_at(
        self, subject: whylight.Subject, batch: whylight.Batch, layer: str, options: LayerOptions
    ) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` of one layer."""
        activations, gradients, products = subject.layer_hessian_products(batch, layer)
        return whylight.ops.cam_pool(activations, gradients - 0.5 * products, "grad-cam", batch.rows)

    def cost(self, options: LayerOptions) -> float:
        """Return the cost of a pass forward, one back to the layer, and the derivative of that one."""
        return sum(1.2 if layer == whylight.LAST_SPATIAL else 4.0 for layer in places(options))

    def cost_per_target(self, options: LayerOptions) -> float:
        """Return the cost of one more pass back and its derivative; all targets share the forward pass."""
        return sum(0.3 if layer == whylight.LAST_SPATIAL else 3.0 for layer in places(options))
