"""Random numbers for copies of a batch's inputs: each copy of each input has its own source; knows no method."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    import whylight


class Draws:
    """Sources for `count` copies of every input, made from the inputs' own seeds.

    Any copy can be drawn again, in any order; what an input gets depends neither on its batch nor on the other copies.
    """

    def __init__(self, batch: whylight.Batch, count: int) -> None:
        import torch

        self._device = batch.inputs.device
        self._seeds = [
            torch.randint(2**62, (count,), generator=batch.generator(row), device=self._device).tolist()
            for row in range(len(batch.inputs))
        ]

    def generator(self, row: int, copy: int) -> torch.Generator:
        """Return the source of a copy of the input `row`, at its beginning."""
        import torch

        return torch.Generator(device=self._device).manual_seed(self._seeds[row][copy])

    def normal(self, like: torch.Tensor, copy: int) -> torch.Tensor:
        """Return standard normal noise in the shape of the inputs `[N, C, H, W]`, for a copy of each."""
        import torch

        drawn = torch.empty_like(like)
        for row, place in enumerate(drawn):
            place.normal_(generator=self.generator(row, copy))
        return drawn


def spread(inputs: torch.Tensor, noise: float) -> torch.Tensor:
    """Return `noise` times the range (largest minus smallest value) of each input, `[N, 1, 1, 1]`."""
    return noise * (inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True))
