"""How late an event loop gets to what is due; knows nothing of what keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL = 0.25
"""Seconds between two looks."""


class LoopDelay:
    """Looks again and again, and tells `observe` by how many seconds it was late."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        loop = asyncio.get_running_loop()
        due = loop.time() + INTERVAL

        def look() -> None:
            nonlocal due
            now = loop.time()
            self._observe(max(now - due, 0.0))
            due = now + INTERVAL
            self._timer = loop.call_at(due, look)

        self._timer = loop.call_at(due, look)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
