"""Which channels of a layer are worth a pass of their own; knows no method and runs no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from whylight_cam.base import LayerOptions, places

if TYPE_CHECKING:
    import torch

USUAL_CHANNELS = 512
"""Channels of a usual last layer. A plan that tries all channels counts with these: options do not know the model."""


class ChannelOptions(LayerOptions):
    """Options of a method that tries channels one by one."""

    top_k: int | None = Field(
        None,
        ge=1,
        le=1 << 16,
        description="How many channels of each input to try, those that vary most over space; the others get the "
        "weight 0. Without it all of them.",
    )


def most_varied(activations: torch.Tensor, count: int | None) -> torch.Tensor:
    """Return the channels `[N, K]` of activations `[N, C, h, w]` to try, for each input those that vary most first.

    All channels come in their own order. Variation is the standard deviation over space; equal ones keep their order.
    """
    import torch

    channels = activations.shape[1]
    if count is None or count >= channels:
        return torch.arange(channels, device=activations.device).expand(len(activations), -1)
    # Input by input: a reduction's order may depend on how many rows there are.
    spread = torch.stack([one.flatten(1).double().std(1, correction=0) for one in activations])
    return spread.argsort(dim=1, descending=True, stable=True)[:, :count]


def passes(options: Any) -> float:
    """Return how many passes forward all tried channels take."""
    return float(options.top_k or USUAL_CHANNELS) * len(places(options))


def spread_over(weights: torch.Tensor, chosen: torch.Tensor, rows: tuple[int, ...], channels: int) -> torch.Tensor:
    """Return weights `[M, C]` of all channels from those `[M, K]` of the chosen ones `[N, K]`; the rest are 0."""
    import torch

    whose = chosen[torch.tensor(rows, device=chosen.device)]
    return weights.new_zeros((len(weights), channels)).scatter_(1, whose, weights)
