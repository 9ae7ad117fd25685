"""Who is still let in: counts the calls, of all and of each caller, and shuts when the server drains; knows no call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from whylight.errors import Unavailable

RETRY_SECONDS = 1.0
"""When a client that was turned away should come again, to this server's successor."""


class Admission:
    """The door of the server. One instance is shared by all services.

    `charge` counts a call of the current caller, and raises where it has had enough; each request of a stream is one.
    """

    def __init__(self, charge: Callable[[], None] = lambda: None) -> None:
        self._charge = charge
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = asyncio.Event()

    @property
    def draining(self) -> bool:
        """Whether the door is shut."""
        return self._draining.is_set()

    @property
    def open_calls(self) -> int:
        """How many are inside."""
        return self._open

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Let one call in, and out again at the end.

        Raises:
            Unavailable: the server is draining.
            RateLimited: the caller has made as many calls as it may.
        """
        if self.draining:
            raise draining_error()
        self._charge()
        self._open += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    def close(self) -> None:
        """Let nobody in any more."""
        self._draining.set()

    async def wait_closed(self) -> None:
        """Return when the door is shut."""
        await self._draining.wait()

    async def wait_idle(self) -> None:
        """Return when nobody is inside."""
        await self._idle.wait()


def draining_error() -> Unavailable:
    """Return what a call is told that comes too late."""
    return Unavailable("the server is shutting down", reason="DRAINING", retry_after=RETRY_SECONDS)
