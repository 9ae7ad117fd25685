"""When calls arrive, and of which kind each is; drawn before anything is sent, so that no server can slow it down."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate


def poisson(rate: float, seconds: float, chance: random.Random) -> Iterator[float]:
    """Yield the times of a Poisson process of `rate` arrivals a second, from 0 to `seconds`, in order."""
    due = chance.expovariate(rate)
    while due < seconds:
        yield due
        due += chance.expovariate(rate)


def kinds(weights: Sequence[float], chance: random.Random) -> Iterator[int]:
    """Yield without end the index of a kind, each as often as its weight says, independently drawn."""
    bounds = list(accumulate(weights))
    indices = range(len(weights))
    while True:
        yield chance.choices(indices, cum_weights=bounds)[0]
