"""Max-sensitivity: how much the map changes when the input hardly does; knows only its definition."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pydantic import Field

import whylight

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class MaxSensitivityOptions(whylight.PlainOptions):
    """How far and how often the input is moved."""

    radius: float = Field(
        0.02,
        ge=0,
        le=10,
        description="By how much a value of the input may change, in the units that the network sees.",
    )
    samples: int = Field(10, ge=1, le=1000, description="How many changed inputs are explained.")


class MaxSensitivity(whylight.Metric):
    """Largest change of the map, as a part of its length, under small changes of the input; lower is better.

    `max_δ |Φ(x + δ) − Φ(x)| / |Φ(x)|` over changes drawn evenly from `|δ|_∞ <= r`, in place of the maximum over all of
    them. A map that is 0 has length 1. The targets stay those of the input as it is, and stochastic methods draw the
    same numbers each time.
    """

    name = "max-sensitivity"
    reference = "Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, definition 2.3"
    higher_is_better = False
    stochastic = True
    Options = MaxSensitivityOptions

    def measure(
        self,
        subject: whylight.Subject,
        batch: whylight.Batch,
        maps: Tensor,
        explain: whylight.Explain,
        options: MaxSensitivityOptions,
    ) -> whylight.Measured:
        """Return the largest relative change of each target's map."""
        import torch

        definite = dataclasses.replace(batch, targets=tuple(found.target for found in subject.resolve(batch)))
        sources = [batch.generator(row) for row in range(len(batch.inputs))]
        length = _lengths(maps)
        length = torch.where(length > 0, length, 1)
        largest = torch.zeros_like(length)
        for _ in range(options.samples):
            batch.cancel.check()
            moved = torch.stack(
                [_moved(input, source, options.radius) for input, source in zip(batch.inputs, sources, strict=True)]
            )
            again = explain(dataclasses.replace(definite, inputs=moved))
            largest = torch.maximum(largest, _lengths(again - maps) / length)
        return whylight.Measured(largest)

    def explanations(self, options: MaxSensitivityOptions) -> int:
        """Return how many changed inputs are explained."""
        return options.samples


def _moved(input: Tensor, source: torch.Generator, radius: float) -> Tensor:
    import torch

    return input + radius * (2 * torch.rand(input.shape, generator=source, device=input.device, dtype=input.dtype) - 1)


def _lengths(maps: Tensor) -> Tensor:
    import torch

    return torch.stack([torch.linalg.vector_norm(map.double()) for map in maps])
