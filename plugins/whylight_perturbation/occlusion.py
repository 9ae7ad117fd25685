"""Occlusion: what the target loses when a window of the input is covered; knows windows, not networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import Field, model_validator

import whylight
from whylight_perturbation.fill import FILL_DESCRIPTION, Fill

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_Length: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
USUAL_SIZE = (224, 224)
"""The input's height and width for which a cost is given, as it must be known before there is an input."""


class OcclusionOptions(whylight.Options):
    """How large the window is, how it moves, and what it shows."""

    window: _Length | tuple[_Length, _Length] = Field(
        32, description="Length of the window's side in pixels of the input, or its height and width."
    )
    stride: _Length | tuple[_Length, _Length] = Field(
        16, description="By how many pixels the window moves, or how many down and how many across."
    )
    fill: Fill = Field("mean", description=FILL_DESCRIPTION)

    @model_validator(mode="after")
    def _cover_every_pixel(self) -> OcclusionOptions:
        if any(step > side for step, side in zip(_pair(self.stride), _pair(self.window), strict=True)):
            raise ValueError("stride must not be larger than window, or some pixels would never be covered")
        return self

    def starts(self, size: tuple[int, int]) -> tuple[range, range]:
        """Return where windows begin, down and across an input of `size` (H, W); the last ones may be cut short."""
        down, across = (
            range(0, (math.ceil(max(length - side, 0) / step) + 1) * step, step)
            for length, side, step in zip(size, _pair(self.window), _pair(self.stride), strict=True)
        )
        return down, across


class Occlusion(whylight.Attribution):
    """Occlusion: how much of the target is lost while a window covers a pixel, the mean over all windows that do.

    `S(λ) = Σ_k (f(x) − f(x_k)) [λ in window k] / Σ_k [λ in window k]`, where `x_k` is the input with window `k` filled.
    Windows begin at every multiple of the stride; one that would reach beyond the right or lower edge is cut there, and
    a window larger than the input covers it all. This is captum's definition (its `Occlusion`, summed over the colour
    channels); the paper shows the score itself instead of what it loses.

    Costs as many passes as there are windows; all targets of an input share them. The number given is that of an input
    of 224 x 224.

    Use it where the question is what happens without a region: nothing is assumed of the model, and the numbers are
    score lost.

    Avoid it for objects much larger than the window, of which enough is always left, or evidence that is there twice:
    covering one of two helmets loses nothing. The filled window is itself something that the model sees.
    """

    name = "occlusion"
    reference = "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, arXiv:1311.2901"
    Options = OcclusionOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: OcclusionOptions) -> torch.Tensor:
        """Return the maps `[M, H, W]` at the size of the input."""
        import torch

        inputs = batch.inputs
        size = (inputs.shape[2], inputs.shape[3])
        starts = options.starts(size)
        down, across = (
            _covered(first, side, length, inputs.device)
            for first, side, length in zip(starts, _pair(options.window), size, strict=True)
        )
        fill = whylight.baseline(options.fill, inputs, subject.model.transform)

        def covered(block: range) -> Tensor:
            window = torch.arange(block.start, block.stop, device=inputs.device)
            hidden = down[window // len(across), :, None] & across[window % len(across), None, :]
            return torch.where(hidden[:, None, None], fill, inputs)

        whole = subject.scores(batch)
        count = len(down) * len(across)
        lost = whole.new_zeros(count, len(whole))
        for block, values in subject.altered_score_blocks(batch, count, covered):
            lost[block.start : block.stop] = whole - values
            batch.report(block.stop, count)
        return _means(lost, down.to(lost.dtype), across.to(lost.dtype))

    def presentation(self, options: OcclusionOptions) -> whylight.Presentation:
        """Say that the sign means something: covered, the target falls, or it rises."""
        return whylight.Presentation(signed=True)

    def cost(self, options: OcclusionOptions) -> float:
        """Return the number of windows for an input of the usual size, and one run without any."""
        down, across = options.starts(USUAL_SIZE)
        return len(down) * len(across) + 1.0

    def cost_per_target(self, options: OcclusionOptions) -> float:
        """Return next to nothing: all targets share the runs."""
        return 0.1


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _covered(starts: range, side: int, length: int, device: torch.device) -> Tensor:
    """Return which of `length` places each window covers, `[windows, length]`."""
    import torch

    first = torch.tensor(list(starts), device=device)[:, None]
    place = torch.arange(length, device=device)
    return (place >= first) & (place < first + side)


def _means(lost: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Return for each target the mean of `lost` `[windows, M]` over the windows that cover a place, `[M, H, W]`."""
    import torch

    counts = down.sum(0)[:, None] * across.sum(0)
    grids = lost.T.reshape(-1, len(down), len(across)).contiguous()
    return torch.stack([down.T @ grid.clone() @ across for grid in grids]) / counts
