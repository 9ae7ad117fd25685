"""Sends calls when they are due and counts what comes of them; knows neither gRPC nor what the calls are."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from whylight.cli.load import arrivals
from whylight.cli.load.spec import Load
from whylight.cli.load.tally import Outcome, Tally


class Clock(Protocol):
    """Tells the time, in seconds, and waits."""

    def now(self) -> float:
        """Return the time."""

    async def until(self, when: float) -> None:
        """Return at `when` and never before, at once if that has passed."""


class MonotonicClock:
    """This machine's monotonic clock, which all processes on it share."""

    def now(self) -> float:
        """Return the time."""
        return time.monotonic()

    async def until(self, when: float) -> None:
        """Return at `when` and never before: uvloop rounds to milliseconds, and may wake a sleeper one too soon."""
        while (left := when - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Sender(Protocol):
    """Makes a call of a kind and says what came of it. Raises nothing."""

    async def __call__(self, kind: int) -> Outcome:
        """Send it, and wait for its end."""


class Driver:
    """Drives one client process through its load."""

    def __init__(self, load: Load, send: Sender, clock: Clock) -> None:
        self.tally = Tally()
        self._load = load
        self._send = send
        self._clock = clock
        self._chance = random.Random(load.seed)
        self._kinds = arrivals.kinds(load.weights, self._chance)

    async def warm_up(self) -> None:
        """Send the calls that come before, and count none."""
        await self._closed(range(self._load.warm_up), counted_from=None, until=None)

    async def run(self, begin: float) -> None:
        """Send the load from `begin` on, on the clock, and return when every call has ended."""
        load = self._load
        await self._clock.until(begin)
        counted_from = begin + load.settle
        if load.calls is not None:
            await self._closed(range(load.calls), counted_from, until=None)
        else:
            assert load.duration is not None
            end = counted_from + load.duration
            if load.rate is None:
                await self._closed(itertools.count(), counted_from, end)
            else:
                due = (begin + time for time in arrivals.poisson(load.rate, end - begin, self._chance))
                await self._open(due, counted_from)

    async def _open(self, arriving: Iterator[float], counted_from: float) -> None:
        running: set[asyncio.Task[None]] = set()
        for due in arriving:
            if due > self._clock.now():
                await self._clock.until(due)
            task = asyncio.ensure_future(self._call(due, counted_from))
            running.add(task)
            task.add_done_callback(running.discard)
            if self._clock.now() > due:  # behind: let what was begun get to the wire before the next is
                await asyncio.sleep(0)
        while running:
            await asyncio.wait(running)

    async def _closed(self, numbers: Iterable[int], counted_from: float | None, until: float | None) -> None:
        left = iter(numbers)

        async def caller() -> None:
            for _ in left:
                now = self._clock.now()
                if until is not None and now >= until:
                    return
                await self._call(now, counted_from)

        await asyncio.gather(*(caller() for _ in range(self._load.concurrency)))

    async def _call(self, due: float, counted_from: float | None) -> None:
        kind = next(self._kinds)
        sent = self._clock.now()
        self.tally.sent += 1
        outcome = await self._send(kind)
        self.tally.ended += 1
        end = self._clock.now()
        if counted_from is None:
            return
        if not outcome.failure:
            self.tally.ends.append(end)
        if due >= counted_from:
            self.tally.add(kind, due, sent, end, outcome)
