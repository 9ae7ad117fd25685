"""Batches of one input each, whose altered copies fill passes by themselves, and what they give; knows no method.

A method that needs hundreds of runs for each input gains nothing from mixing inputs, and an input that is worked on by
itself gets the same bits whatever batch it came in, on every device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import whylight

if TYPE_CHECKING:
    from torch import Tensor


def alone(subject: whylight.Subject, batch: whylight.Batch) -> list[whylight.Batch]:
    """Return one batch for each input, with its targets made definite: ranks are those of the unaltered input."""
    definite = [resolved.target for resolved in subject.resolve(batch)]
    return [
        dataclasses.replace(
            batch,
            inputs=batch.inputs[row : row + 1],
            targets=tuple(target for target, of in zip(definite, batch.rows, strict=True) if of == row),
            rows=(0,) * batch.rows.count(row),
            seeds=batch.seeds[row : row + 1],
            companions=batch.companions_at(slice(row, row + 1)),
        )
        for row in range(len(batch.inputs))
    ]


def gathered(batch: whylight.Batch, row: int, count: int, blocks: Iterable[tuple[range, Tensor]]) -> Tensor:
    """Return what `count` copies of input `row` gave, block by block, in one; reports, as if all inputs had as many."""
    import torch

    pieces = []
    for block, values in blocks:
        pieces.append(values)
        batch.report(row * count + block.stop, len(batch.inputs) * count)
    return torch.cat(pieces)
