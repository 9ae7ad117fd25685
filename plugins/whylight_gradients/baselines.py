"""Images that stand for "nothing to see", to which an input is compared; knows no method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import whylight

if TYPE_CHECKING:
    import torch

BaselineName = Literal["zero", "black", "white", "mean", "blur", "noise"]
DrawnName = Literal["zero", "black", "white", "mean", "blur", "noise", "shuffle"]

DESCRIPTION = (
    "'black' or 'white' as the picture was before it was normalised; 'zero' in the units that the network sees, often "
    "the mean colour of its training data; 'mean', the input's own mean colour; 'blur', the input blurred until only "
    "patches of colour are left (Gaussian, deviation a tenth of the shorter side); 'noise', a uniform random colour at "
    "each pixel, from the input's seed."
)
BLUR = 0.1
"""Deviation of the blur as a part of the input's shorter side."""


def baseline(
    subject: whylight.Subject,
    batch: whylight.Batch,
    name: DrawnName,
    generator: Callable[[int], torch.Generator] | None = None,
) -> torch.Tensor:
    """Return the baseline of each input, `[N, C, H, W]`; what is drawn comes from ``generator(row)``, or the seeds.

    Besides those of `DESCRIPTION` there is "shuffle": the input's own pixels in random order.
    """
    import torch

    inputs = batch.inputs
    source = generator or batch.generator
    if name == "zero":
        return torch.zeros_like(inputs)
    if name in ("black", "white"):
        shade = inputs.new_full((1, inputs.shape[1], 1, 1), float(name == "white"))
        return subject.model.transform.from_unit(shade).expand_as(inputs).contiguous()
    # One by one: a sum over a whole batch may be shared out to threads in another way, and then has other bits.
    if name == "mean":
        return torch.stack([input.mean((1, 2), keepdim=True).expand_as(input) for input in inputs])
    if name == "blur":
        return torch.stack([blurred(input) for input in inputs])
    if name == "shuffle":
        return torch.stack([_shuffled(input, source(row)) for row, input in enumerate(inputs)])
    drawn = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    for row, place in enumerate(drawn):
        place.uniform_(generator=source(row))
    return subject.model.transform.from_unit(drawn)


def blurred(input: torch.Tensor) -> torch.Tensor:
    """Return one input `[C, H, W]` blurred; at the edges the kernel is cut off and normalised again."""
    height, width = input.shape[1:]
    deviation = BLUR * min(height, width)
    down, across = (_kernel(length, deviation, input) for length in (height, width))
    return down @ input @ across.T


def _kernel(length: int, deviation: float, like: torch.Tensor) -> torch.Tensor:
    """Return the matrix that blurs along one dimension, `[length, length]`."""
    import torch

    places = torch.arange(length, dtype=like.dtype, device=like.device)
    weights = torch.exp(-0.5 * ((places[:, None] - places[None, :]) / deviation) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _shuffled(input: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    order = torch.randperm(input[0].numel(), generator=generator, device=input.device)
    return input.flatten(1)[:, order].reshape(input.shape)
