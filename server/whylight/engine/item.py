"""One input on its way through the engine, from admission to its one end; knows no queue and no worker."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from whylight.engine.plan import Plan
from whylight.engine.roster import Flight
from whylight.engine.ticket import Ticket
from whylight.engine.work import AnswerRoom, Watch
from whylight.errors import DeadlineExceeded, WhylightError
from whylight.v1 import explanation_pb2 as v1


@dataclass(eq=False)
class Item:
    """An input, what is to be done to it, and the future that its caller awaits.

    `seeds` has one for each method, or none at all; `arrived` is when its call came, in seconds; `room` what the
    results of its call have to fit in; `watch` who is told of its progress, as that of input `index`; `pictures`
    and `preview_interval` belong to long work; `flight` is the batch that carries it, None while it waits; `waited` how
    long it did, as far as its worker told, in seconds; `trace` is what its call gave for the reports; `allowed` until
    when it may take, if that is before its caller's deadline; `request_id` names its call in the worker's log.
    """

    ticket: Ticket
    plan: Plan
    input: v1.Input
    seeds: tuple[int, ...]
    arrived: float
    outcome: asyncio.Future[v1.InputResult | WhylightError]
    room: AnswerRoom | None = None
    watch: Watch | None = None
    index: int = 0
    pictures: Sequence[v1.Input] = ()
    preview_interval: int = 0
    trace: Hashable = None
    flight: Flight | None = None
    waited: float = 0.0
    allowed: float | None = None
    request_id: str = ""

    def late(self) -> DeadlineExceeded:
        """Return what is told of it when its deadline has passed."""
        if self.allowed is None:
            return DeadlineExceeded("the deadline passed before there was a result")
        return DeadlineExceeded(
            f"the work took longer than the {self.allowed - self.arrived:g} seconds that the server allows a call",
            reason="CALL_TOO_LONG",
        )

    def end(self, outcome: v1.InputResult | WhylightError) -> None:
        """Give the caller its outcome; nothing happens when it has one, or went away."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)
            if self.watch is not None and self.watch.end is not None:
                self.watch.end(self.index, outcome)
