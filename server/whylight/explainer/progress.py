"""Who is told how far a method has come with which input, and how often; knows neither methods nor messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whylight.explainer.jobs import Job
from whylight.explainer.plan import PlannedMethod, method_failed


@dataclass(frozen=True)
class Progress:
    """How far one method has come with one input.

    `method` is its index in the plan; `done` of `total` is counted in units of the method's choice. `maps` are those so
    far, `[M, h, w]` float32 on the CPU, one for each target of the input; None when they are not wanted or not there.
    """

    method: int
    done: int
    total: int
    maps: Tensor | None = None


class Watcher:
    """Someone who waits for one input and wants to know how far it is, but not all the time.

    Between two tellings are at least `min_interval` seconds, but for the first report of a method and its last, which
    are told in any case. `tell` must not block.
    """

    def __init__(
        self,
        tell: Callable[[Progress], None],
        *,
        min_interval: float = 0.25,
        running_maps: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running_maps = running_maps
        self._tell = tell
        self._min_interval = min_interval
        self._clock = clock
        self._method: int | None = None
        self._told = 0.0

    def wants(self, method: int, done: int, total: int) -> bool:
        """Whether it is time to tell."""
        return method != self._method or done == total or self._clock() >= self._told + self._min_interval

    def tell(self, progress: Progress) -> None:
        """Tell."""
        self._method, self._told = progress.method, self._clock()
        self._tell(progress)


class Reporter:
    """What a method of a batch reports to; tells those who watch the inputs."""

    def __init__(self, planned: PlannedMethod, index: int, jobs: Sequence[Job], rows: Sequence[int]) -> None:
        """Report on method `index` of the plan for `jobs`, whose targets are of `rows`."""
        self._planned = planned
        self._index = index
        self._jobs = jobs
        self._rows = rows

    def __call__(self, done: int, total: int, maps: Tensor | None) -> None:
        """Take a report.

        Raises:
            MethodFailed: it makes no sense, whether anybody watches or not.
        """
        if not 0 <= done <= total or total < 1:
            raise method_failed(self._planned.offered, f"reported that {done} of {total} is done")
        if maps is not None:
            self._check(maps)
        due = [
            (row, job, job.watcher)
            for row, job in enumerate(self._jobs)
            if job.watcher is not None and job.watcher.wants(self._index, done, total)
        ]
        near: Tensor | None = None
        for row, job, watcher in due:
            theirs = None
            # Of a part of the targets nothing is shown: maps without their neighbours would be taken for others.
            if maps is not None and watcher.running_maps and job.whole:
                near = maps.detach().to("cpu", torch.float32) if near is None else near
                theirs = near[[m for m, of in enumerate(self._rows) if of == row]]  # a copy, which stays as it is
            watcher.tell(Progress(self._index, int(done), int(total), theirs))

    def _check(self, maps: Tensor) -> None:
        fits = isinstance(maps, Tensor) and maps.dim() == 3 and len(maps) == len(self._rows) and 0 not in maps.shape
        if not fits or not maps.is_floating_point():
            raise method_failed(self._planned.offered, "reported something other than a map for each target")
