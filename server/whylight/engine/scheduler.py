"""Which waiting items go to a worker next: many queues, fair by cost, bounded; pure, with the time passed in; knows no
worker, no message and no clock."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from whylight.engine.bounds import Bounds
from whylight.engine.deadlines import Deadlines
from whylight.engine.throughput import Throughput
from whylight.errors import DeadlineExceeded, InvalidInput, Overloaded


@dataclass(frozen=True)
class Ticket:
    """An item as the scheduler sees it: cost in model evaluations, size in bytes, absolute deadline in seconds."""

    id: int
    queue: Hashable
    cost: float
    size: int = 0
    deadline: float = math.inf


class CloseReason(enum.Enum):
    """Why a batch took no more items."""

    FULL = "full"  # it reached a bound
    WORKER_FREE = "worker_free"  # a worker had nothing to do, and there was no more of this kind
    MAX_DELAY = "max_delay"  # its first item had waited long enough
    DRAINING = "draining"  # the engine is closing and waits for no more


@dataclass(frozen=True)
class FormedBatch:
    """Items of one queue, oldest first, that go to a worker together.

    `fill` is the share of the bound that they came nearest to, of items, cost or bytes, at most 1.
    """

    queue: Hashable
    tickets: tuple[Ticket, ...]
    cost: float
    reason: CloseReason
    fill: float = 1.0


@dataclass
class _Queue:
    credit: float = 0.0
    """Cost that it may still be served in this round; below 0 it is in debt to the others."""
    waiting: OrderedDict[int, Ticket] = field(default_factory=OrderedDict)
    arrivals: dict[int, float] = field(default_factory=dict)
    cost: float = 0.0
    size: int = 0

    def add(self, ticket: Ticket, now: float) -> None:
        self.waiting[ticket.id] = ticket
        self.arrivals[ticket.id] = now
        self.cost += ticket.cost
        self.size += ticket.size

    def remove(self, ticket: Ticket) -> None:
        del self.waiting[ticket.id]
        del self.arrivals[ticket.id]
        self.cost -= ticket.cost
        self.size -= ticket.size

    def oldest(self) -> float:
        return self.arrivals[next(iter(self.waiting))]


class Scheduler:
    """Queues of items and the order in which they are served.

    Fairness is by cost, not by count: deficit round-robin (Shreedhar and Varghese, SIGCOMM 1995) in the variant that
    lets a queue go into debt (surplus round-robin), so that nobody has to know the cost of a batch before it is formed.
    In each round every queue gets credit for one full batch of the cheapest work; a queue with credit left sends a
    batch, pays its cost and goes to the back. Over any time in which two queues both have work they are served the same
    cost, up to one round's credit and one batch. Nobody starves: newcomers begin without credit, so rounds end, and
    each round pays debts back. A queue that runs empty keeps its debt, so that sending one expensive item at a time
    gains nothing.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._round_credit = min(float(bounds.max_batch_items), bounds.max_batch_cost)
        self._queues: OrderedDict[Hashable, _Queue] = OrderedDict()
        self._homes: dict[int, Hashable] = {}
        self._deadlines = Deadlines()
        self._cost = 0.0
        self._size = 0
        self._running = 0
        self.throughput = Throughput()
        self.draining = False

    def __len__(self) -> int:
        return len(self._homes)

    def admit(self, tickets: Sequence[Ticket], now: float) -> None:
        """Queue all of `tickets`, or none of them.

        Raises:
            Overloaded: there is no room; `retry_after` says when there is likely to be.
            InvalidInput: they would not fit into empty queues either.
            DeadlineExceeded: a deadline has passed, or what waits before it takes far too long.
        """
        cost, size = sum(ticket.cost for ticket in tickets), sum(ticket.size for ticket in tickets)
        self._check_bounds(len(tickets), cost, size)
        for ticket in tickets:
            self._check_deadline(ticket, now)
        for ticket in tickets:
            self._queues.setdefault(ticket.queue, _Queue()).add(ticket, now)
            self._homes[ticket.id] = ticket.queue
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
        dues = (self._due(queue) for queue in self._queues.values() if queue.waiting)
        return min(self._deadlines.next(), min((due for due in dues if due > now), default=math.inf))

    def next_batch(
        self, now: float, *, may_leave: Callable[[Hashable, bool], bool] = lambda queue, full: True
    ) -> FormedBatch | None:
        """Take out the batch whose turn it is, or return None when no batch may leave yet.

        `may_leave` is asked of a queue, and whether its batch is full, if there is a worker for it now. Queues for
        which there is none are passed over, pay nothing for it and hold up nobody. Batches that could still grow are to
        stay while a worker is busy: one that leaves too early to wait there in front of a later one is a small batch.
        """
        ready = [
            key
            for key, queue in self._queues.items()
            if queue.waiting
            and ((full := self._is_full(queue)) or self.draining or self._due(queue) <= now)
            and may_leave(key, full)
        ]
        if not ready:
            return None
        if not any(self._queues[key].credit > 0 for key in ready):
            self._begin_rounds(max(self._queues[key].credit for key in ready))
        key = next(key for key in ready if self._queues[key].credit > 0)
        queue = self._queues[key]
        full = self._is_full(queue)
        taken = self._front(queue)
        cost = sum(ticket.cost for ticket in taken)
        queue.credit -= cost
        self._queues.move_to_end(key)
        self._running += 1
        for ticket in taken:
            self._remove(ticket.id)
        return FormedBatch(key, tuple(taken), cost, self._reason(full), self._fill(taken, cost))

    def finished(self, cost: float, busy: float) -> None:
        """Count a batch as done that a worker was busy with for `busy` seconds."""
        self.throughput.count(cost, busy)
        self.given_up()

    def given_up(self) -> None:
        """Count a batch as gone whose worker was lost."""
        self._running -= 1
        self._forget_when_idle()

    def _check_bounds(self, items: int, cost: float, size: int) -> None:
        bounds = self._bounds
        asked = (
            ("inputs", len(self), items, bounds.max_queued_items),
            ("model evaluations", self._cost, cost, bounds.max_queued_cost),
            ("bytes of input", self._size, size, bounds.max_queued_bytes),
        )
        for unit, queued, more, limit in asked:
            if more > limit:
                raise InvalidInput(
                    f"the call needs {more:g} {unit}; the server takes at most {limit:g} at a time",
                    reason="REQUEST_TOO_COSTLY",
                )
            if queued + more > limit:
                excess = (queued + more - limit) / limit * self._cost
                raise Overloaded(
                    f"the server is at its limit of {limit:g} waiting {unit}",
                    retry_after=self.throughput.seconds_for(excess, least=0.1, most=60.0, unknown=1.0),
                )

    def _check_deadline(self, ticket: Ticket, now: float) -> None:
        if ticket.deadline <= now:
            raise DeadlineExceeded("the deadline passed before the work began")
        queue = self._queues.get(ticket.queue)
        if not queue:
            return
        # At the least, the workers have to get through what waits in the same queue. The measured pace may be off, as
        # that of a first batch is; so a call is turned away only when even twice that pace would be too slow.
        wait = self.throughput.seconds_for(queue.cost, least=0.0, most=math.inf, unknown=0.0)
        if now + wait / 2 > ticket.deadline:
            raise DeadlineExceeded("the deadline cannot be met: too much work waits before it")

    def _remove(self, id: int) -> Ticket:
        key = self._homes.pop(id)
        queue = self._queues[key]
        ticket = queue.waiting[id]
        queue.remove(ticket)
        self._deadlines.discard(id)
        self._cost -= ticket.cost
        self._size -= ticket.size
        if not queue.waiting and queue.credit >= 0:
            del self._queues[key]
        if not self._homes:
            self._cost, self._size = 0.0, 0  # Sums of floats drift; an empty sum is exact.
            self._forget_when_idle()
        return ticket

    def _begin_rounds(self, richest: float) -> None:
        """Give every queue the credit of as many rounds as the richest one that is ready needs to be served."""
        rounds = int(-richest // self._round_credit) + 1
        for key, queue in list(self._queues.items()):
            queue.credit = min(queue.credit + rounds * self._round_credit, self._round_credit)
            if not queue.waiting and queue.credit >= 0:
                del self._queues[key]

    def _forget_when_idle(self) -> None:
        if not self._homes and not self._running:
            self._queues.clear()

    def _due(self, queue: _Queue) -> float:
        return queue.oldest() + self._bounds.max_delay

    def _is_full(self, queue: _Queue) -> bool:
        bounds = self._bounds
        return (
            len(queue.waiting) >= bounds.max_batch_items
            or queue.cost >= bounds.max_batch_cost
            or queue.size >= bounds.max_batch_bytes
        )

    def _front(self, queue: _Queue) -> list[Ticket]:
        taken: list[Ticket] = []
        cost, size = 0.0, 0
        for ticket in queue.waiting.values():
            cost, size = cost + ticket.cost, size + ticket.size
            above = cost > self._bounds.max_batch_cost or size > self._bounds.max_batch_bytes
            if taken and (above or len(taken) == self._bounds.max_batch_items):
                break
            taken.append(ticket)
        return taken

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
