"""Score-CAM; knows only its definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import whylight
from whylight_cam.base import LayerMap, weighted
from whylight_cam.channels import ChannelOptions, most_varied, passes, spread_over

if TYPE_CHECKING:
    import torch


class ScoreCAM(LayerMap):
    """Sum of a layer's channels, each weighted by the score of the input seen through that channel alone. No gradients.

    `ReLU(Σ_k α_k A_k)` with `α = softmax_k(y(X ∘ H_k))`, where `H_k` is channel k at the size of the input, brought to
    0..1. The paper's "channel-wise increase of confidence" `y(X ∘ H_k) - y(0)` gives the same weights: a softmax does
    not see a constant, so the input without a picture is not run. Scores are raw ones, as in the paper's algorithm 1:
    where they range widely, one channel takes all the weight. A channel that is constant has no mask and gets no
    weight; under the profiles of the libraries it gets that of an input of zeros, as there. Profiles also say how masks
    are made: "pytorch-grad-cam" interpolates with aligned corners, "torchcam" normalises before it interpolates.

    Costs one pass forward for each channel, 512 and more in usual last layers: hundreds of Grad-CAMs. With `top_k` a
    few dozen channels mostly give the same picture.

    Use it where gradients vanish or are noisy.

    Avoid it where time counts, and where scores range widely: then one channel, often of the strongest object whatever
    the class, is the whole map.
    """

    name = "score-cam"
    reference = "Wang et al., Score-CAM: Score-Weighted Visual Explanations for CNNs, CVPR 2020 workshops"
    Options = ChannelOptions

    def maps_at(
        self, subject: whylight.Subject, batch: whylight.Batch, layer: str, options: ChannelOptions
    ) -> torch.Tensor:
        """Return the raw maps `[M, h, w]` of one layer."""
        import torch

        activations = subject.layer_maps(batch, layer)
        chosen = most_varied(activations, options.top_k)
        count = chosen.shape[1]

        def seen_through(block: range) -> torch.Tensor:
            picked = chosen[:, block.start : block.stop, None, None].expand(-1, -1, *activations.shape[2:])
            masks = _masks(activations.gather(1, picked), batch.inputs.shape[2:], options.profile)
            return masks.transpose(0, 1)[:, :, None] * batch.inputs

        scores = []
        for block, values in subject.altered_score_blocks(batch, count, seen_through):
            scores.append(values)
            batch.report(block.stop, count)
        table = torch.cat(scores).t().contiguous()
        rows = torch.tensor(batch.rows, device=table.device)
        if options.profile in ("paper", "captum"):
            flat = activations.flatten(2).gather(1, chosen[:, :, None].expand(-1, -1, activations[0, 0].numel()))
            constant = flat.amax(2) == flat.amin(2)
            table = table.masked_fill(constant[rows], -torch.inf)
        # Of an input whose channels are all constant nothing is left; its map is 0.
        weights = torch.softmax(table, 1).nan_to_num(0.0)
        return weighted(activations, spread_over(weights, chosen, batch.rows, activations.shape[1]), batch.rows)

    def cost(self, options: ChannelOptions) -> float:
        """Return the cost of one pass for each channel; where all are tried, as many as a usual layer has."""
        return 1.0 + passes(options)

    def cost_per_target(self, options: ChannelOptions) -> float:
        """Return the cost of one more weighted sum: all targets share the passes."""
        return 0.05


def _masks(maps: torch.Tensor, size: Sequence[int], profile: str) -> torch.Tensor:
    """Return channels `[N, K, h, w]` as masks `[N, K, H, W]` of 0 to 1."""
    if profile == "torchcam":
        return _enlarged(_between_0_and_1(maps, 1e-8), size, corners=False)
    corners = profile == "pytorch-grad-cam"
    large = _enlarged(maps, size, corners=corners)
    return _between_0_and_1(large, 1e-8 if corners else 0.0)


def _between_0_and_1(maps: torch.Tensor, eps: float) -> torch.Tensor:
    maps = maps - maps.amin((2, 3), keepdim=True)
    divisor = maps.amax((2, 3), keepdim=True) + eps
    return (maps / divisor).where(divisor != 0, 0.0)


def _enlarged(maps: torch.Tensor, size: Sequence[int], *, corners: bool) -> torch.Tensor:
    """Return maps `[N, K, h, w]` as `[N, K, H, W]`, by the same kernel however many there are of either.

    Which one torch takes, with which bits, depends on whether an image has a multiple of eight channels: here all maps
    are channels of one image, filled up with copies.
    """
    import torch
    from torch.nn.functional import interpolate

    flat = maps.flatten(0, 1)
    height, width = size
    filled = torch.cat([flat, flat[:1].expand(-len(flat) % 8, -1, -1)])[None]
    large = interpolate(filled, (height, width), mode="bilinear", align_corners=corners)
    return large[0, : len(flat)].view(*maps.shape[:2], height, width)
