"""Which waiting items go to a worker next: many lines, fair by cost, bounded; pure, with the time passed in; knows no
worker, no message and no clock."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from whylight.engine.bounds import Bounds
from whylight.engine.deadlines import Deadlines
from whylight.engine.level import Level
from whylight.engine.line import Line
from whylight.engine.throughput import Paces, Throughput
from whylight.engine.ticket import Ticket
from whylight.errors import DeadlineExceeded, InvalidInput, Overloaded
from whylight.priority import Priority

_CAUTION = 2.0
"""How many times too slow a deadline must be for a call to be turned away: the measured pace may be off."""


class CloseReason(enum.Enum):
    """Why a batch took no more items."""

    FULL = "full"  # it reached a bound
    WORKER_FREE = "worker_free"  # a worker had nothing to do, and there was no more of this kind
    MAX_DELAY = "max_delay"  # its first item had waited long enough
    DRAINING = "draining"  # the engine is closing and waits for no more


@dataclass(frozen=True)
class Slot:
    """Room for a batch at a worker. Before the time `due`, only a full batch should fill it."""

    worker: int
    due: float


@dataclass(frozen=True)
class FormedBatch:
    """Items of one line that go to a worker together.

    `fill` is the share of the bound that they came nearest to, of items, cost or bytes, at most 1; `expected` how many
    seconds a worker should need for them, None before anything was measured.
    """

    queue: Hashable
    tickets: tuple[Ticket, ...]
    cost: float
    reason: CloseReason
    fill: float = 1.0
    worker: int = 0
    expected: float | None = None


class Scheduler:
    """Lines of items, at two priorities, and the order in which they are served.

    What is interactive goes first. While it does and bulk work waits, bulk work is owed a share of the cost that is
    served, and has its turn as soon as it is owed anything; so it is never starved, and never takes more than its share
    but what nobody else wants. Within a priority, `Level` says whose turn it is.
    """

    def __init__(
        self, bounds: Bounds, servers: Callable[[Hashable], Collection[int]] = lambda queue: frozenset()
    ) -> None:
        """Hold what waits to `bounds`; `servers` says which workers may be given batches of a queue now.

        None at all means that nobody knows yet.
        """
        self._bounds = bounds
        self._servers = servers
        self._round_credit = min(float(bounds.max_batch_items), bounds.max_batch_cost)
        self._levels = {priority: Level(self._round_credit) for priority in Priority}
        self._homes: dict[int, tuple[Priority, Hashable]] = {}
        self._deadlines = Deadlines()
        self._cost = 0.0
        self._size = 0
        self._running = 0
        self._owed = 0.0
        """Cost that bulk work has to be served before what is interactive; below 0 it had more than its share."""
        self._paces = Paces()
        self.throughput = Throughput()
        self.draining = False
        self.held_until = math.inf
        """When the last `next_batch` would have given one that it held back, for it may grow while workers are busy."""

    def __len__(self) -> int:
        return len(self._homes)

    @property
    def cost(self) -> float:
        """Model evaluations of all that waits."""
        return self._cost

    @property
    def size(self) -> int:
        """Bytes of all that waits."""
        return self._size

    def admit(self, tickets: Sequence[Ticket], now: float) -> None:
        """Queue all of `tickets`, which are those of one call, or none of them.

        Raises:
            Overloaded: there is no room; `retry_after` says when there is likely to be.
            InvalidInput: they would not fit into empty queues either, or one call may not cost so much.
            DeadlineExceeded: a deadline has passed, or what waits before it takes far too long.
        """
        cost, size = sum(ticket.cost for ticket in tickets), sum(ticket.size for ticket in tickets)
        self._check_bounds(tickets, cost, size)
        self._check_deadlines(tickets, now)
        for ticket in tickets:
            self._levels[ticket.priority].add(ticket, now)
            self._homes[ticket.id] = ticket.priority, ticket.queue
            self._deadlines.add(ticket.id, ticket.deadline)
        self._cost += cost
        self._size += size

    def cancel(self, ids: Iterable[int]) -> list[Ticket]:
        """Take out at once those of `ids` that wait, and return them."""
        return [self._remove(id) for id in ids if id in self._homes]

    def expire(self, now: float) -> list[Ticket]:
        """Take out what waits and has its deadline at or before `now`, and return it."""
        return [self._remove(id) for id in self._deadlines.passed(now)]

    def next_event(self, now: float) -> float:
        """Return when a deadline passes, or a batch that waits to become full has waited enough; infinity if never."""
        dues = (self._due(line) for level in self._levels.values() for line in level.lines.values())
        return min(self._deadlines.next(), min((due for due in dues if due > now), default=math.inf))

    def next_batch(
        self, now: float, room: Callable[[Hashable], Slot | None] = lambda queue: Slot(0, -math.inf)
    ) -> FormedBatch | None:
        """Take out the batch whose turn it is, or return None when no batch may leave yet.

        `room` says of a queue where there is room for a batch of it. Queues for which there is none are passed over,
        pay nothing for it and hold up nobody. A batch that could still grow is held back while its worker is busy: one
        that leaves too early to wait there in front of a later one is a small batch. But its turn is its turn: nobody
        else takes its place meanwhile, or a full batch would always be before it.
        """
        self.held_until = math.inf
        held: set[int] = set()
        while True:
            chosen = self._choose(now, room, held)
            if chosen is None:
                return None
            priority, caller, key, slot = chosen
            full = self._is_full(self._levels[priority].lines[key])
            if full or self.draining or slot.due <= now:
                return self._form(priority, caller, key, full, slot.worker)
            held.add(slot.worker)
            self.held_until = min(self.held_until, slot.due)

    def finished(self, batch: FormedBatch, busy: float) -> None:
        """Count a batch as done that a worker was busy with for `busy` seconds."""
        self.throughput.count(batch.cost, busy)
        self._paces.count(batch.queue, batch.cost, busy)
        self.given_up()

    def given_up(self) -> None:
        """Count a batch as gone whose worker was lost."""
        self._running -= 1
        self._forget_when_idle()

    def _choose(
        self, now: float, room: Callable[[Hashable], Slot | None], held: set[int]
    ) -> tuple[Priority, Hashable, Hashable, Slot] | None:
        """Return whose turn it is, where, and at which worker, but for those that are held."""
        slots: dict[Hashable, Slot] = {}
        for priority in self._order():
            level = self._levels[priority]
            slots = {}
            for key, line in level.lines.items():
                if self._is_full(line) or self.draining or self._due(line) <= now:
                    slot = room(key)
                    if slot is not None and slot.worker not in held:
                        slots[key] = slot
            turn = level.next(slots.__contains__)
            if turn is not None:
                caller, key = turn
                return priority, caller, key, slots[key]
        return None

    def _order(self) -> tuple[Priority, ...]:
        """Return the priorities, the one that goes first at the front."""
        return (Priority.BULK, Priority.INTERACTIVE) if self._owed > 0 else (Priority.INTERACTIVE, Priority.BULK)

    def _form(self, priority: Priority, caller: Hashable, key: Hashable, full: bool, worker: int) -> FormedBatch:
        self._running += 1
        tickets = self._levels[priority].form(caller, key, self._bounds.max_batch_items, self._fits)
        cost = sum(ticket.cost for ticket in tickets)
        for ticket in tickets:
            self._forget(ticket)
        self._settle(priority, cost)
        fill = self._fill(tickets, cost)
        return FormedBatch(key, tuple(tickets), cost, self._reason(full), fill, worker, self._expected(key, cost))

    def _settle(self, priority: Priority, cost: float) -> None:
        """Note what one priority was served while the other waited."""
        share = self._bounds.bulk_share
        if priority is Priority.BULK and self._levels[Priority.INTERACTIVE].lines:
            self._owed -= cost
        elif priority is Priority.INTERACTIVE and self._levels[Priority.BULK].lines:
            self._owed = min(self._owed + cost * share / (1 - share), self._round_credit)

    def _expected(self, key: Hashable, cost: float) -> float | None:
        """Return how many seconds a worker should need: by the pace of this kind, or else of whatever was done."""
        seconds = self._paces.seconds(key, cost)
        pace = self.throughput.per_worker
        return seconds if seconds is not None else cost / pace if pace else None

    def _check_bounds(self, tickets: Sequence[Ticket], cost: float, size: int) -> None:
        bounds = self._bounds
        if cost > bounds.max_call_cost:
            raise _too_costly(tickets, "model evaluations", cost, bounds.max_call_cost)
        asked = (
            ("inputs", len(self), len(tickets), bounds.max_queued_items),
            ("model evaluations", self._cost, cost, bounds.max_queued_cost),
            ("bytes of input", self._size, size, bounds.max_queued_bytes),
        )
        for unit, queued, more, limit in asked:
            if more > limit:
                raise _too_costly(tickets, unit, more, limit)
            if queued + more > limit:
                excess = (queued + more - limit) / limit * self._cost
                raise Overloaded(
                    f"the server is at its limit of {limit:g} waiting {unit}",
                    retry_after=self.throughput.seconds_for(excess, least=0.1, most=60.0, unknown=1.0),
                )

    def _check_deadlines(self, tickets: Sequence[Ticket], now: float) -> None:
        """Refuse a call that is late, or that cannot be done in time even at twice the pace that was measured."""
        deadline = min((ticket.deadline for ticket in tickets), default=math.inf)
        if deadline <= now:
            raise DeadlineExceeded("the deadline passed before the work began")
        if deadline == math.inf or not (self._homes or self._running):
            return  # An idle server tries: what it measured may be wrong, and this is how it finds out.
        wait = self._least_wait(tickets, deadline - now)
        if wait > _CAUTION * (deadline - now):
            raise DeadlineExceeded(
                f"the deadline cannot be met: with what waits before it, the work takes about {wait:.3g} seconds",
                reason="DEADLINE_CANNOT_BE_MET",
                metadata={"expected_wait_seconds": f"{wait:.3f}"},
            )

    def _least_wait(self, tickets: Sequence[Ticket], left: float) -> float:
        """Return in how many seconds a call is done at the earliest, by the paces that are known, others being 0.

        By the rules of fairness, others go before it with as much as it has itself, and the same call's earlier items
        with all of theirs. Where its model is at some workers only, those alone do it, and what only they can do waits
        for them too. What runs already is left out.
        """
        workers = max(self.throughput.workers, 1)
        mine = frozenset(self._servers(tickets[0].queue))  # the items of a call are for one version of a model
        fewest = min(len(mine) or workers, workers)
        own: dict[Hashable, float] = {}
        for ticket in tickets:
            own[ticket.queue] = own.get(ticket.queue, 0.0) + ticket.cost
        seconds = sum(self._seconds(key, cost) for key, cost in own.items())
        lines = self._levels[tickets[0].priority].lines
        if (seconds + sum(self._seconds(key, line.cost) for key, line in lines.items())) / fewest <= left:
            return 0.0  # Even behind all that waits it would be in time; nothing else has to be known.
        wait = self._turns_before(tickets[0], seconds, lines) / workers
        if fewest == workers:
            return wait
        theirs = {key: line for key, line in lines.items() if (able := self._servers(key)) and mine.issuperset(able)}
        return max(wait, self._turns_before(tickets[0], seconds, theirs) / fewest)

    def _turns_before(self, me: Ticket, seconds: float, lines: Mapping[Hashable, Line]) -> float:
        """Return for how long one worker is busy until a call that takes `seconds` is done, if it has these lines."""
        before = 0.0
        waits: dict[Hashable, float] = {}
        for key, line in lines.items():
            for caller, cost in line.costs.items():
                waits[caller] = waits.get(caller, 0.0) + self._seconds(key, cost)
        if me.queue in lines:
            before = self._seconds(me.queue, lines[me.queue].waits_in_front(me))
            waits[me.caller] = waits.get(me.caller, 0.0) - before
        return before + seconds + sum(min(wait, seconds) for wait in waits.values())

    def _seconds(self, key: Hashable, cost: float) -> float:
        return self._paces.seconds(key, cost) or 0.0

    def _remove(self, id: int) -> Ticket:
        priority, key = self._homes[id]
        ticket = self._levels[priority].remove(key, id)
        self._forget(ticket)
        return ticket

    def _forget(self, ticket: Ticket) -> None:
        """Count a ticket out that has left its line."""
        del self._homes[ticket.id]
        self._deadlines.discard(ticket.id)
        self._cost -= ticket.cost
        self._size -= ticket.size
        if not self._homes:
            self._cost, self._size = 0.0, 0  # Sums of floats drift; an empty sum is exact.
            self._forget_when_idle()

    def _forget_when_idle(self) -> None:
        if not self._homes and not self._running:
            self._owed = 0.0
            for level in self._levels.values():
                level.clear()

    def _due(self, line: Line) -> float:
        return line.oldest + self._bounds.max_delay

    def _is_full(self, line: Line) -> bool:
        bounds = self._bounds
        return (
            len(line) >= bounds.max_batch_items
            or line.cost >= bounds.max_batch_cost
            or line.size >= bounds.max_batch_bytes
        )

    def _fits(self, taken: list[Ticket], ticket: Ticket) -> bool:
        bounds = self._bounds
        return (
            sum(other.cost for other in taken) + ticket.cost <= bounds.max_batch_cost
            and sum(other.size for other in taken) + ticket.size <= bounds.max_batch_bytes
        )

    def _fill(self, taken: Sequence[Ticket], cost: float) -> float:
        bounds = self._bounds
        size = sum(ticket.size for ticket in taken)
        shares = len(taken) / bounds.max_batch_items, cost / bounds.max_batch_cost, size / bounds.max_batch_bytes
        return min(max(shares), 1.0)

    def _reason(self, full: bool) -> CloseReason:
        if full:
            return CloseReason.FULL
        if self.draining:
            return CloseReason.DRAINING
        return CloseReason.MAX_DELAY if self._bounds.max_delay else CloseReason.WORKER_FREE


def _too_costly(tickets: Sequence[Ticket], unit: str, asked: float, limit: float) -> InvalidInput:
    """Make the error of a call that no waiting helps."""
    return InvalidInput(
        f"the call needs {asked:g} {unit}; the server takes at most {limit:g} at a time",
        reason="REQUEST_TOO_COSTLY",
        field="inputs" if len(tickets) > 1 or unit != "model evaluations" else "methods",
    )
