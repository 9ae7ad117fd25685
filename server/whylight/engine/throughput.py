"""How fast workers get through work, measured as it goes; pure, knows no worker and no clock."""

from __future__ import annotations

_KEPT = 0.9
"""Share of the past that one more batch leaves: about the last ten batches count."""


class Throughput:
    """Model evaluations per second of all workers together, over the last batches."""

    def __init__(self) -> None:
        self._cost = 0.0
        self._seconds = 0.0
        self.workers = 1

    @property
    def per_worker(self) -> float | None:
        """Model evaluations per second of one busy worker; None before the first batch."""
        return self._cost / self._seconds if self._seconds > 0 else None

    def count(self, cost: float, seconds: float) -> None:
        """Take in that a worker was busy for `seconds` with a batch of this cost."""
        self._cost = _KEPT * self._cost + cost
        self._seconds = _KEPT * self._seconds + max(seconds, 1e-6)

    def seconds_for(self, cost: float, *, least: float, most: float, unknown: float) -> float:
        """Return how long all workers need for so much work, within bounds; `unknown` before anything was measured."""
        pace = self.per_worker
        return min(max(cost / (pace * max(self.workers, 1)), least), most) if pace else unknown
