"""Eigen-CAM; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight
from whylight_cam.base import LayerMap, LayerOptions, places

if TYPE_CHECKING:
    import torch


class EigenCAM(LayerMap):
    """What most of a layer's activity has in common: its first principal component. The same map for every class.

    With the activations as a matrix `A` of positions × channels, each channel less its mean: `ReLU(A v)`, `v` the first
    right singular vector of `A`. The paper does not subtract the mean, pytorch-grad-cam does, and so do we: otherwise
    the first component is the mean picture itself. A singular vector has no sign of its own. Here the map is turned so
    that it goes along with the layer's total activation: the sum over positions of the map times the sum over channels
    of `A` is not negative (and if it is 0, the map's first largest magnitude is positive).

    Costs one pass, without gradients.

    Use it for a quick look at where the objects are, whatever they are.

    Avoid it to ask why: it says what the layer sees, not why the answer is this class, and cannot compare classes.
    """

    name = "eigen-cam"
    reference = "Muhammad and Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020"

    def maps_at(
        self, subject: whylight.Subject, batch: whylight.Batch, layer: str, options: LayerOptions
    ) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` of one layer, the same for all targets of an input."""
        import torch

        activations = subject.layer_maps(batch, layer)
        maps = []
        for one in activations:
            batch.cancel.check()
            maps.append(_first_component(one))
        return torch.stack(maps)[torch.tensor(batch.rows, device=activations.device)]

    def cost(self, options: LayerOptions) -> float:
        """Return the cost of a pass forward for each layer; a decomposition of a small matrix goes with it."""
        return 1.0 * len(places(options))

    def cost_per_target(self, options: LayerOptions) -> float:
        """Return the cost of one more copy of a map: next to nothing."""
        return 0.01


def _first_component(activations: torch.Tensor) -> torch.Tensor:
    """Return the projection `[h, w]` of activations `[C, h, w]` on their first right singular vector, its sign fixed.

    By the eigenvectors of the smaller Gram matrix, in float64: squaring halves the digits, and the layer's type may
    have few.
    """
    import torch

    matrix = activations.flatten(1).double().t()
    matrix = matrix - matrix.mean(0)
    positions, channels = matrix.shape
    if positions <= channels:
        values, vectors = torch.linalg.eigh(matrix @ matrix.t())
        projection = vectors[:, -1] * values[-1].clamp(min=0).sqrt()
    else:
        projection = matrix @ torch.linalg.eigh(matrix.t() @ matrix)[1][:, -1]
    along = torch.dot(projection, matrix.sum(1))
    peak = projection[projection.abs().argmax()]
    negative = torch.where(along == 0, peak < 0, along < 0)
    projection = torch.where(negative, -projection, projection)
    return projection.reshape(activations.shape[1:]).to(activations.dtype)
