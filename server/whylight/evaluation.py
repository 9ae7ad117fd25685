"""What an evaluation says: which method's maps can be trusted most, metric by metric and in all; measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from whylight.errors import WhylightError
from whylight.explanation import Explained


@dataclass(frozen=True)
class RankedMethod:
    """Where a method stands: the mean of its ranks, from 1, the best, and of the metric's values.

    `method_index` is its place among the methods of the call; `mean_value` is None in the ranking by all metrics.
    """

    method: str
    method_index: int
    mean_rank: float
    mean_value: float | None = None


@dataclass(frozen=True)
class Ranking:
    """The methods of a call, best first, by one metric; or by all metrics, which weigh the same: `metric` is then "".

    `metric_index` is the place of the metric among those of the call.
    """

    metric: str
    metric_index: int
    methods: tuple[RankedMethod, ...]


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation: for each image its explanations, with measurements, or the error in their place.

    `rankings` has one for each metric, in the order of the call, and behind them the one by all metrics; none where no
    image could be explained.
    """

    results: tuple[Explained | WhylightError, ...]
    rankings: tuple[Ranking, ...]
    model: str
    model_digest: str

    @property
    def overall(self) -> Ranking:
        """The ranking by all metrics.

        Raises:
            LookupError: no image could be explained.
        """
        if not self.rankings:
            raise LookupError("no image could be explained, so that there is no ranking")
        return self.rankings[-1]


class Measured(Protocol):
    """A measurement, whether a message or not."""

    @property
    def metric(self) -> str:
        """Name of the metric."""

    @property
    def value(self) -> float:
        """What was measured."""

    @property
    def higher_is_better(self) -> bool:
        """Which of two values is the better one."""


class MeasuredMap(Protocol):
    """An explanation, whether a message or not."""

    @property
    def method(self) -> str:
        """Name of the method."""

    @property
    def measurements(self) -> Sequence[Measured]:
        """One for each metric."""


def rank_methods(results: Iterable[Sequence[MeasuredMap]], methods: int) -> tuple[Ranking, ...]:
    """Rank the methods of a call by each metric, and by all.

    `results` has the explanations of each input: all targets of the first of so many `methods`, then of the second,
    and so on. Each target of each input ranks the methods; methods with equal values share the mean of their ranks.
    """
    cells = [
        [explanations[method * targets + target] for method in range(methods)]
        for explanations in results
        for targets in [len(explanations) // methods]
        for target in range(targets)
    ]
    if not cells:
        return ()
    rankings = []
    sums = [0.0] * methods
    metrics = len(cells[0][0].measurements)
    for index in range(metrics):
        first = cells[0][0].measurements[index]
        values = [[one.measurements[index].value for one in cell] for cell in cells]
        ranks = [_ranks(row, higher_is_better=first.higher_is_better) for row in values]
        means = [sum(column) / len(cells) for column in zip(*ranks, strict=True)]
        averages = [sum(column) / len(cells) for column in zip(*values, strict=True)]
        sums = [total + mean for total, mean in zip(sums, means, strict=True)]
        rankings.append(_ranking(first.metric, index, cells[0], means, averages))
    overall = [total / max(metrics, 1) for total in sums]
    return (*rankings, _ranking("", 0, cells[0], overall, [None] * methods))


def _ranking(
    metric: str, index: int, cell: Sequence[MeasuredMap], ranks: Sequence[float], values: Sequence[float | None]
) -> Ranking:
    order = sorted(range(len(cell)), key=lambda method: ranks[method])
    return Ranking(
        metric,
        index,
        tuple(RankedMethod(cell[method].method, method, ranks[method], values[method]) for method in order),
    )


def _ranks(values: Sequence[float], *, higher_is_better: bool) -> list[float]:
    """Return the rank of each value, from 1, ties at their mean."""
    better = [-value if higher_is_better else value for value in values]
    return [
        1 + sum(other < mine for other in better) + (sum(other == mine for other in better) - 1) / 2 for mine in better
    ]
