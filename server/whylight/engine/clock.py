"""The time that the engine lives by: a monotonic clock and its timers, which tests bring themselves; knows no work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Take the call back."""


class Clock(Protocol):
    """Seconds that never jump, and calls at a time."""

    def now(self) -> float:
        """Return the time in seconds, from an arbitrary beginning."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` at `when` or as soon after it as can be."""


class LoopClock:
    """The clock of the running event loop."""

    def now(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` from the loop."""
        return asyncio.get_running_loop().call_at(when, callback)
