"""How much each caller may ask for in a time: token buckets, pure, with the time passed in; knows no call.

Why not a library: `limits` counts whole units and keeps one entry for each of them in its moving window, while costs
here are fractions and thousands, and must be answered with the time until there is room again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """What a caller may ask for, per second. None bounds nothing."""

    calls_per_second: float | None = None
    evaluations_per_second: float | None = None


UNLIMITED = Rates()


class Bucket:
    """A token bucket that may go into debt: whoever has credit gets all of what it asks, and waits afterwards.

    So nothing is too large to be ever let in, and over a long time nobody gets more than the rate.
    """

    def __init__(self) -> None:
        self._level: float | None = None
        self._filled = 0.0

    def take(self, amount: float, *, rate: float, capacity: float, least: float, now: float) -> float:
        """Take `amount` if there is at least `least`, and return 0; otherwise take nothing and return the wait.

        Args:
            amount: how much to take, of what flows in at `rate` per second.
            rate: may differ from that of the last time; it counts from then on.
            capacity: how much may gather, at least `least`.
            least: how much must be there.
            now: seconds, never less than at the last time.
        """
        level = capacity if self._level is None else min(capacity, self._level + (now - self._filled) * rate)
        self._level, self._filled = level, now
        if level < least:
            return (least - level) / rate
        self._level = level - amount
        return 0.0
