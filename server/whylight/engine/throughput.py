"""How fast workers get through work, measured as it goes; pure, knows no worker and no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

_KEPT = 0.9
"""Share of the past that one more batch leaves: about the last ten batches count."""

_SOUND = 3
"""Batches of a kind after which its pace is taken for known: the first ones warm up what later ones find ready."""

_KINDS = 512


class Throughput:
    """Model evaluations per second of all workers together, over the last batches."""

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0
        self._batches = 0
        self.workers = 1

    @property
    def per_worker(self) -> float | None:
        """Model evaluations per second of one busy worker; None before the first batch."""
        return self._cost / self._seconds if self._seconds > 0 else None

    @property
    def sound(self) -> float | None:
        """The same, once enough batches were seen to rely on it; None before."""
        return self.per_worker if self._batches >= _SOUND else None

    def count(self, cost: float, seconds: float) -> None:
        """Take in that a worker was busy for `seconds` with a batch of this cost."""
        self._cost = _KEPT * self._cost + cost
        self._seconds = _KEPT * self._seconds + max(seconds, 1e-6)
        self._batches += 1

    def seconds_for(self, cost: float, *, least: float, most: float, unknown: float) -> float:
        """Return how long all workers need for so much work, within bounds; `unknown` before anything was measured."""
        pace = self.per_worker
        return min(max(cost / (pace * max(self.workers, 1)), least), most) if pace else unknown


class Paces:
    """The throughput of each kind of work, of the kinds that were done last: one model is not as fast as another."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, Throughput] = OrderedDict()

    def count(self, kind: Hashable, cost: float, seconds: float) -> None:
        """Take in that a worker was busy for `seconds` with a batch of a kind."""
        self._kinds.setdefault(kind, Throughput()).count(cost, seconds)
        self._kinds.move_to_end(kind)
        while len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)

    def seconds(self, kind: Hashable, cost: float) -> float | None:
        """Return how long one worker needs for work of a kind; None before its pace is known."""
        pace = self._kinds[kind].sound if kind in self._kinds else None
        return cost / pace if pace else None
