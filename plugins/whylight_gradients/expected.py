"""Expected gradients between drawn baselines and the input, which two methods share; knows neither of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_gradients.baselines import DrawnName, baseline
from whylight_gradients.draws import Draws, spread
from whylight_gradients.path import completeness, scores_at

if TYPE_CHECKING:
    import torch

DRAWN_ANEW = frozenset({"noise", "shuffle"})
"""Baselines of which each draw is another."""


class ExpectedOptions(whylight.Options):
    """How many samples, and from which baselines."""

    samples: int = Field(50, ge=1, le=2000, description="Gradients taken of each input, each somewhere on a path.")
    baselines: tuple[DrawnName, ...] = Field(
        ("black", "white", "blur", "noise", "shuffle"),
        min_length=1,
        max_length=16,
        description="Where the paths begin, one after the other, equally often: 'black', 'white', 'zero' (in the units "
        "that the network sees), 'mean' (the input's own mean colour), 'blur' (the input strongly blurred), and, each "
        "time another, 'noise' (uniform) and 'shuffle' (the input's own pixels in random order).",
    )


class Expected(whylight.Attribution):
    """The mean over samples of gradient times way, from drawn baselines to the input with noise, or without."""

    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    Options = ExpectedOptions

    def noise(self, options: ExpectedOptions) -> float:
        """Return the deviation of the noise on the input, as a part of its range."""
        return 0.0

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: ExpectedOptions) -> whylight.Maps:
        """Return the maps `[M, H, W]` at the size of the input, and their checks."""
        import torch

        rows = list(batch.rows)
        paths = _Paths(subject, batch, options, self.noise(options))
        total, maps = torch.empty(0), torch.empty(0)
        for given in subject.altered_gradients(batch, options.samples, paths.point):
            one = paths.ways.pop(given.index)[rows] * given.gradients
            total = one if given.index == 0 else total.add_(one)
            maps = (total / (given.index + 1)).sum(1)
            batch.report(given.index + 1, options.samples, maps)
        at_baselines = scores_at(subject, batch, list(paths.baselines.values()))
        shares = [sum(paths.key(copy) == key for copy in range(options.samples)) for key in paths.baselines]
        mean = torch.stack([score.double() * share for score, share in zip(at_baselines, shares, strict=True)]).sum(0)
        return whylight.Maps(maps, completeness(maps, subject.scores(batch), mean / options.samples))

    def presentation(self, options: ExpectedOptions) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: ExpectedOptions) -> float:
        """Return the cost of a pass forward and back for each sample, and one forward for each baseline."""
        names = options.baselines
        drawn = sum(names[copy % len(names)] in DRAWN_ANEW for copy in range(options.samples))
        return 2.0 * options.samples + drawn + len(set(names) - DRAWN_ANEW) + 1.0

    def cost_per_target(self, options: ExpectedOptions) -> float:
        """Return the cost of one more pass back for each sample; all targets share the forward passes."""
        return 1.0 * options.samples


class _Paths:
    """Where the samples of one batch lie; keeps what the sum needs: each baseline once, each way until it is used."""

    def __init__(
        self, subject: whylight.Subject, batch: whylight.Batch, options: ExpectedOptions, noise: float
    ) -> None:
        self.baselines: dict[tuple[DrawnName, int], torch.Tensor] = {}
        self.ways: dict[int, torch.Tensor] = {}
        self._subject, self._batch, self._names = subject, batch, options.baselines
        self._draws = Draws(batch, options.samples)
        self._deviation = spread(batch.inputs, noise) if noise else None

    def key(self, copy: int) -> tuple[DrawnName, int]:
        """Return what tells the baseline of a sample from others."""
        name = self._names[copy % len(self._names)]
        return name, copy if name in DRAWN_ANEW else -1

    def point(self, copy: int) -> torch.Tensor:
        """Return where sample `copy` lies on its path, for each input, `[N, C, H, W]`."""
        import torch

        inputs = self._batch.inputs
        # One source for each input, from which its baseline, its place and its noise are drawn, in this order.
        sources = [self._draws.generator(row, copy) for row in range(len(inputs))]
        key = self.key(copy)
        if key not in self.baselines:
            self.baselines[key] = baseline(self._subject, self._batch, key[0], sources.__getitem__)
        start = self.baselines[key]
        places = torch.empty(len(inputs), 1, 1, 1, dtype=inputs.dtype, device=inputs.device)
        end = inputs
        if self._deviation is not None:
            end = torch.empty_like(inputs)
        for row, source in enumerate(sources):
            places[row].uniform_(generator=source)
            if self._deviation is not None:
                end[row].normal_(generator=source)
        if self._deviation is not None:
            end = inputs + self._deviation * end
        self.ways[copy] = end - start
        return start + places * self.ways[copy]
