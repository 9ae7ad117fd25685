"""Times functions in turns, so that what else the machine does hits all of them alike; knows not what they do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Clock = Callable[[Callable[[], object]], float]
T = TypeVar("T")


@dataclass(frozen=True)
class Taken:
    """How long one call took, in seconds: by the wall's clock, and of all processors together."""

    wall: float
    processor: float


def wall_seconds(run: Callable[[], object]) -> float:
    """Call `run` and return how many seconds that took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def both_clocks(run: Callable[[], object]) -> Taken:
    """Call `run` and return how long that took by both clocks.

    What else the machine does takes time of the wall, and of a processor no more than it disturbs the caches.
    """
    processor = time.process_time()
    wall = wall_seconds(run)
    return Taken(wall, time.process_time() - processor)


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    seconds: float,
    least: int = 5,
    clock: Clock = wall_seconds,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Call all functions in turns for `seconds`, each at least `least` times, and return their times in seconds.

    Each is called `warm_up` times before.
    """
    return in_turns(contestants, seconds, clock, least, warm_up)


def in_turns(
    contestants: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[Callable[[], object]], T],
    least: int = 5,
    warm_up: int = 2,
) -> dict[str, list[T]]:
    """Do as `interleaved`, and return what `clock` gives."""
    for run in contestants.values():
        for _ in range(warm_up):
            run()
    times: dict[str, list[T]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, run in contestants.items():
            times[name].append(clock(run))
    return times


def median_ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return the median over turns of how many times as long `name` took as `base` in the same turn."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))
