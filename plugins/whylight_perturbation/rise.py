"""RISE: the mean of random masks, weighted by what the model answers to the input under each; knows only masks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_perturbation.alone import alone

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class RISEOptions(whylight.Options):
    """How many masks there are, how coarse they are, and how much they show."""

    masks: int = Field(4000, ge=1, le=20000, description="How many masks are drawn for each input.")
    grid: int = Field(7, ge=1, le=32, description="How many cells a mask has down and across, before it is enlarged.")
    probability: float = Field(0.5, gt=0, le=1, description="With which probability a cell shows the input.")


class RISE(whylight.Attribution):
    """RISE: how high the target is on average while a pixel is shown, over thousands of random soft masks.

    `S(λ) = Σ_i f(x ⊙ M_i) M_i(λ) / (p N)`, the paper's equation 6. A mask is a grid of cells that show the input with
    probability `p`, enlarged bilinearly to one cell more than the input, of which a window at a random place is taken.
    Hidden pixels go towards 0 of the normalised units, as in the authors' code: the mean colour of the training data,
    or black for a network that takes 0..1. `f` is the target's score, where the paper takes the class's probability.
    Every input has masks of its own, from its seed.

    Costs `masks` passes; all targets of an input share them.

    Use it for models of which nothing is known but their answers, where occlusion's single window is too small for the
    object.

    Avoid it with few masks, whose blotches look like evidence: below about 1000, ask with two seeds. Its contrast is
    low where the score is high for any masked picture.
    """

    name = "rise"
    reference = (
        "Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018, "
        "arXiv:1806.07421"
    )
    stochastic = True
    Options = RISEOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: RISEOptions) -> torch.Tensor:
        """Return the maps `[M, H, W]` at the size of the input."""
        import torch

        inputs = alone(subject, batch)
        running = [_run(subject, one, options) for one in inputs]
        sums: list[Tensor] = []
        done = 0
        for step in zip(*running, strict=True):
            done = step[0][0]
            sums = [total for _, total in step]
            batch.report(done, options.masks, torch.cat(sums) / (options.probability * done))
        return torch.cat(sums) / (options.probability * done)

    def cost(self, options: RISEOptions) -> float:
        """Return the number of masks."""
        return float(options.masks)

    def cost_per_target(self, options: RISEOptions) -> float:
        """Return what adding up its map costs; all targets share the runs."""
        return options.masks / 100


def _run(subject: whylight.Subject, one: whylight.Batch, options: RISEOptions) -> Iterator[tuple[int, Tensor]]:
    """Yield, block by block, how many masks are done and the sum of the masks so far by score, `[T, H, W]`."""
    import torch

    input = one.inputs
    height, width = input.shape[2:]
    masks = Masks(options, (height, width), one.generator(0))
    sums = torch.zeros(len(one.targets), height * width, device=input.device, dtype=_floating(input.dtype))
    made: list[Tensor] = []

    def shown(block: range) -> Tensor:
        made[:] = [masks.take(block, input.dtype)]
        return input * made[0][:, None, None]

    for block, values in subject.altered_score_blocks(one, options.masks, shown):
        flat = made[0].flatten(1).to(sums.dtype)
        for total, scores in zip(sums, values.T.to(sums.dtype), strict=True):
            # Each target by itself, from memory of its own: a product for several is rounded in another way.
            total += scores.clone() @ flat
        # The other inputs have their turn now, each with a block of its own.
        made.clear()
        del flat
        yield block.stop, sums.view(-1, height, width)


class Masks:
    """The masks of one input: small grids and shifts, drawn at once, and enlarged when they are needed."""

    def __init__(self, options: RISEOptions, size: tuple[int, int], generator: torch.Generator) -> None:
        import torch

        self._size = size
        self._cells = options.grid
        self._side = tuple(math.ceil(length / options.grid) for length in size)
        shape = (options.masks, options.grid, options.grid)
        drawn = torch.rand(shape, generator=generator, device=generator.device)
        self._grids = drawn < options.probability
        self._shifts = [
            torch.randint(side, (options.masks,), generator=generator, device=generator.device) for side in self._side
        ]

    def take(self, block: range, dtype: torch.dtype) -> Tensor:
        """Return some masks `[len(block), H, W]`, with values in 0..1."""
        rows = slice(block.start, block.stop)
        down, across = (
            self._enlargement(side, dtype)[shifts[rows, None] + self._range(length)]
            for side, shifts, length in zip(self._side, self._shifts, self._size, strict=True)
        )
        return down @ self._grids[rows].to(dtype) @ across.transpose(1, 2)

    def _range(self, length: int) -> Tensor:
        import torch

        return torch.arange(length, device=self._grids.device)

    def _enlargement(self, side: int, dtype: torch.dtype) -> Tensor:
        """Return the bilinear weights of the cells for each place of the enlarged mask, `[(cells + 1) side, cells]`.

        As `interpolate` with `align_corners=False` and as scikit-image's `resize`, which the authors use.
        """
        import torch
        import torch.nn.functional as F

        unit = torch.eye(self._cells, device=self._grids.device, dtype=dtype)
        enlarged = F.interpolate(unit[None], size=(self._cells + 1) * side, mode="linear", align_corners=False)
        return enlarged[0].T.contiguous()


def _floating(dtype: torch.dtype) -> torch.dtype:
    import torch

    return dtype if dtype == torch.float64 else torch.float32
