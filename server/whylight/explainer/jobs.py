"""Inputs on their way through batches, how they are split, and their answers put together; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from whylight.decode import DecodedInput
from whylight.errors import WhylightError
from whylight.explanation import Explained, Explanation
from whylight.subject.cancel import CancelToken
from whylight.target import Target

if TYPE_CHECKING:
    from whylight.explainer.progress import Watcher


@dataclass(frozen=True)
class Job:
    """One input, or a part of its targets or methods; `place` is its place in the caller's list.

    `seeds` has one for each method of the plan and then for each metric; `methods` are the indices of those that are to
    run, `first_target` is the index of the first of `targets` among those of the input, which are all there if the job
    is `whole`; `watcher` is told of progress.
    """

    place: int
    input: DecodedInput
    targets: tuple[Target, ...]
    seeds: tuple[int, ...]
    cancel: CancelToken
    methods: tuple[int, ...]
    watcher: Watcher | None = None
    first_target: int = 0
    whole: bool = True


def halves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Split jobs in two, or a single job's targets, or its methods; return nothing when nothing is left to split.

    Methods that run apart share nothing, but nothing has to be kept for them either.
    """
    if len(jobs) > 1:
        middle = (len(jobs) + 1) // 2
        return [list(jobs[:middle]), list(jobs[middle:])]
    (job,) = jobs
    if len(job.targets) > 1:
        middle = (len(job.targets) + 1) // 2
        return [
            [replace(job, targets=job.targets[:middle], whole=False)],
            [replace(job, targets=job.targets[middle:], first_target=job.first_target + middle, whole=False)],
        ]
    if len(job.methods) > 1:
        middle = (len(job.methods) + 1) // 2
        return [[replace(job, methods=job.methods[:middle])], [replace(job, methods=job.methods[middle:])]]
    return []


class Answers:
    """What came of each input, whole or in parts; the first error of an input is what came of it."""

    def __init__(self, count: int) -> None:
        self._outcomes: list[Explained | WhylightError | None] = [None] * count
        self._explanations: list[dict[tuple[int, int], Explanation]] = [{} for _ in range(count)]

    def failed(self, place: int) -> bool:
        """Whether an input has its error."""
        return isinstance(self._outcomes[place], WhylightError)

    def fail(self, place: int, error: WhylightError) -> None:
        """Enter why an input cannot be explained."""
        self._outcomes[place] = error

    def add(self, job: Job, explained: Explained) -> None:
        """Enter what came of a job: all targets of its first method, then of the second, and so on."""
        if self._outcomes[job.place] is None:
            self._outcomes[job.place] = explained
        keys = [(method, job.first_target + n) for method in job.methods for n in range(len(job.targets))]
        self._explanations[job.place].update(zip(keys, explained.explanations, strict=True))

    def results(self) -> list[Explained | WhylightError]:
        """Return what came of each input, its explanations in the order of methods and then of targets."""
        return [
            self._result(outcome, explanations)
            for outcome, explanations in zip(self._outcomes, self._explanations, strict=True)
        ]

    def _result(
        self, outcome: Explained | WhylightError | None, explanations: dict[tuple[int, int], Explanation]
    ) -> Explained | WhylightError:
        assert outcome is not None
        if isinstance(outcome, WhylightError):
            return outcome
        return replace(outcome, explanations=tuple(explanations[key] for key in sorted(explanations)))
