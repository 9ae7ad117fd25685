"""Ablation-CAM; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight
from whylight_cam.base import LayerMap, weighted
from whylight_cam.channels import ChannelOptions, most_varied, passes, spread_over

if TYPE_CHECKING:
    import torch

_FAR_BELOW = 1e7
"""How far below the least activation pytorch-grad-cam puts an ablated channel of a layer whose minimum is not 0."""


class AblationCAM(LayerMap):
    """Sum of a layer's channels, each weighted by the share of the score that is lost without it. No gradients.

    `ReLU(Σ_k w_k A_k)` with `w_k = (y - y_k) / y`, where `y_k` is the score with channel k set to 0, in all positions.
    Where `y` is 0 there is no share, and the loss itself is the weight. A negative score turns the signs around, by the
    definition: explain classes whose score is positive. Under the profile "pytorch-grad-cam" a channel of a layer whose
    least activation is not 0 is set 1e7 below it, as that library does, not to 0.

    Costs one pass for each channel, but only from the layer on: at a last layer little, at an early one as much as
    Score-CAM.

    Use it where gradients vanish, or cannot be had, and at the last layer, where it is cheap.

    Avoid it for classes whose score is negative, whose map is that of the evidence against them, and where channels
    stand in for one another: without one of them little is lost, so all of them get small weights.
    """

    name = "ablation-cam"
    reference = (
        "Desai and Ramaswamy, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free "
        "Localization, WACV 2020"
    )
    Options = ChannelOptions

    def maps_at(
        self, subject: whylight.Subject, batch: whylight.Batch, layer: str, options: ChannelOptions
    ) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` of one layer."""
        import torch

        activations = subject.layer_maps(batch, layer)
        chosen = most_varied(activations, options.top_k)
        numbers = chosen.tolist()
        axis = subject.channel_axis(layer)
        profile = options.profile

        def alter(row: int, index: int, output: torch.Tensor) -> torch.Tensor:
            changed = output.clone()
            changed.select(axis, numbers[row][index]).copy_(_nothing(output, profile))
            return changed

        lost: list[list[torch.Tensor]] = [[] for _ in batch.inputs]
        count = chosen.shape[1]
        for done, (row, values) in enumerate(subject.altered_layer_scores(batch, layer, count, alter), start=1):
            lost[row].append(values)
            batch.report(done, count * len(lost))
        # Inputs come in order, and so do the targets of each: one table after the other is all targets in order.
        without = torch.cat([torch.stack(several, 1) for several in lost if several])
        scores = subject.scores(batch)[:, None]
        drops = scores - without
        weights = torch.where(scores != 0, drops / scores, drops)
        return weighted(activations, spread_over(weights, chosen, batch.rows, activations.shape[1]), batch.rows)

    def cost(self, options: ChannelOptions) -> float:
        """Return the cost of the passes behind the layer: from the last one on a twentieth of a whole pass each."""
        share = 0.05 if options.layer == whylight.LAST_SPATIAL and not options.layers else 0.5
        return 1.0 + share * passes(options)

    def cost_per_target(self, options: ChannelOptions) -> float:
        """Return the cost of one more weighted sum: all targets share the passes."""
        return 0.05


def _nothing(output: torch.Tensor, profile: str) -> torch.Tensor:
    """Return what an ablated channel is set to."""
    least = output.amin()
    if profile != "pytorch-grad-cam":
        return least.new_zeros(())
    return (least - _FAR_BELOW).where(least != 0, 0.0)
