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
    f"{whylight.describe_baselines('black', 'white', 'zero', 'mean', 'blur')}; 'noise', a uniform random colour at "
    "each pixel, from the input's seed."
)


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
    if name == "shuffle":
        return torch.stack([_shuffled(input, source(row)) for row, input in enumerate(inputs)])
    if name == "noise":
        drawn = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        for row, place in enumerate(drawn):
            place.uniform_(generator=source(row))
        return subject.model.transform.from_unit(drawn)
    return whylight.baseline(name, inputs, subject.model.transform).contiguous()


def _shuffled(input: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    order = torch.randperm(input[0].numel(), generator=generator, device=input.device)
    return input.flatten(1)[:, order].reshape(input.shape)
