"""The scheduler under any sequence of events: every admitted item leaves exactly once, in order, within bounds."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from whylight.engine.bounds import Bounds
from whylight.engine.scheduler import CloseReason, FormedBatch, Scheduler, Slot
from whylight.engine.ticket import Ticket
from whylight.errors import DeadlineExceeded, InvalidInput, Overloaded
from whylight.priority import Priority

BOUNDS = Bounds(
    max_batch_items=4,
    max_batch_cost=10.0,
    max_batch_bytes=1000,
    max_delay=0.5,
    max_queued_items=12,
    max_queued_cost=60.0,
    max_queued_bytes=4000,
)

item = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from([1.0, 2.0, 7.0, 20.0]),
    st.sampled_from([0, 300, 1200]),
    st.sampled_from([0.0, 0.2, 1.0, math.inf]),
)

room = st.sampled_from(["free", "busy", "none"])


class SchedulerMachine(RuleBasedStateMachine):
    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(BOUNDS)
        self.now = 100.0
        self.next_id = 1
        self.queues: dict[tuple[Priority, str], list[tuple[Ticket, float]]] = {}
        """What should be waiting, oldest first, with its time of arrival."""
        self.calls = 0
        self.running = 0
        self.left: dict[int, str] = {}
        """How each item left."""

    def waiting(self) -> list[Ticket]:
        return [ticket for queue in self.queues.values() for ticket, _ in queue]

    def leave(self, tickets: list[Ticket], how: str) -> None:
        for ticket in tickets:
            assert ticket.id not in self.left, f"{ticket} left twice"
            self.left[ticket.id] = how
            where = ticket.priority, ticket.queue
            self.queues[where] = [(other, arrival) for other, arrival in self.queues[where] if other != ticket]

    def is_full(self, queue: list[tuple[Ticket, float]]) -> bool:
        return (
            len(queue) >= BOUNDS.max_batch_items
            or sum(ticket.cost for ticket, _ in queue) >= BOUNDS.max_batch_cost
            or sum(ticket.size for ticket, _ in queue) >= BOUNDS.max_batch_bytes
        )

    @rule(
        items=st.lists(item, min_size=1, max_size=8),
        caller=st.sampled_from(["me", "you", "they"]),
        priority=st.sampled_from(Priority),
    )
    def admit(self, items: list[tuple[str, float, int, float]], caller: str, priority: Priority) -> None:
        self.calls += 1
        tickets = [
            Ticket(self.next_id + place, queue, cost, size, self.now + left, caller, self.calls, priority)
            for place, (queue, cost, size, left) in enumerate(items)
        ]
        self.next_id += len(tickets)
        before = self.waiting()
        fits = (
            len(before) + len(tickets) <= BOUNDS.max_queued_items
            and sum(ticket.cost for ticket in [*before, *tickets]) <= BOUNDS.max_queued_cost
            and sum(ticket.size for ticket in [*before, *tickets]) <= BOUNDS.max_queued_bytes
        )
        try:
            self.scheduler.admit(tickets, self.now)
        except (Overloaded, InvalidInput):
            assert not fits
        except DeadlineExceeded as error:
            late = any(ticket.deadline <= self.now for ticket in tickets)
            assert (error.reason == "DEADLINE_EXCEEDED") == late  # noqa: PT017
            assert late or before or self.running, "an idle server tries"
        else:
            assert fits
            for ticket in tickets:
                self.queues.setdefault((priority, ticket.queue), []).append((ticket, self.now))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=batches, rooms=st.fixed_dictionaries(dict.fromkeys("abc", room)))
    def take_batch(self, rooms: dict[str, str]) -> FormedBatch:
        """Queue "a" has a worker of its own, the others share one."""

        def slot(queue: str) -> Slot | None:
            dues = {"free": -math.inf, "busy": self.now + 1.0}
            kind = rooms["b" if queue == "c" else queue]
            return None if kind == "none" else Slot(int(queue == "a"), dues[kind])

        ready = {
            name: queue
            for name, queue in self.queues.items()
            if queue
            and slot(name[1])
            and (self.is_full(queue) or self.scheduler.draining or queue[0][1] + BOUNDS.max_delay <= self.now)
        }
        may_grow = {name for name, queue in ready.items() if not self.is_full(queue) and slot(name[1]).due > self.now}
        batch = self.scheduler.next_batch(self.now, slot)
        if batch is None:
            workers = {slot(name[1]).worker for name in ready}
            held = {slot(name[1]).worker for name in may_grow}
            assert workers == held, "work was ready and no batch came"
            assert not (ready and self.scheduler.draining), "draining holds nothing back"
            assert self.scheduler.held_until == (self.now + 1.0 if ready else math.inf)
            return multiple()
        where = batch.tickets[0].priority, batch.queue
        assert where in ready
        assert where not in may_grow or self.scheduler.draining
        assert batch.worker == slot(batch.queue).worker
        self.check(batch, self.queues[where])
        return batch

    def check(self, batch: FormedBatch, queue: list[tuple[Ticket, float]]) -> None:
        tickets = list(batch.tickets)
        assert set(tickets) <= {ticket for ticket, _ in queue}
        for call in {ticket.call for ticket in tickets}:
            mine = [ticket for ticket in tickets if ticket.call == call]
            waiting = [ticket for ticket, _ in queue if ticket.call == call]
            assert mine == waiting[: len(mine)], "the items of a call stay in their order"
        assert batch.cost == sum(ticket.cost for ticket in tickets)
        if len(tickets) > 1:
            assert len(tickets) <= BOUNDS.max_batch_items
            assert batch.cost <= BOUNDS.max_batch_cost
            assert sum(ticket.size for ticket in tickets) <= BOUNDS.max_batch_bytes
        assert (batch.reason is CloseReason.FULL) == self.is_full(queue)
        assert self.is_full(queue) or len(tickets) == len(queue), "a batch that is not full takes all there is"
        self.leave(tickets, "batched")
        self.running += 1

    @rule(batch=consumes(batches), busy=st.sampled_from([0.0, 0.1, 2.0]))
    def finish(self, batch: FormedBatch, busy: float) -> None:
        self.scheduler.finished(batch, busy)
        self.running -= 1

    @rule(batch=consumes(batches))
    def lose(self, batch: FormedBatch) -> None:
        self.scheduler.given_up()
        self.running -= 1

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.integers(1, max(self.next_id - 1, 1)), max_size=4, unique=True))
        expected = [ticket for id in ids for ticket in self.waiting() if ticket.id == id]
        cancelled = self.scheduler.cancel(ids)
        assert cancelled == expected
        self.leave(cancelled, "cancelled")

    @rule()
    def expire(self) -> None:
        expected = {ticket.id for ticket in self.waiting() if ticket.deadline <= self.now}
        expired = self.scheduler.expire(self.now)
        assert {ticket.id for ticket in expired} == expected
        self.leave(expired, "expired")

    @rule()
    def drain(self) -> None:
        self.scheduler.draining = True

    @invariant()
    def counts_what_waits(self) -> None:
        assert len(self.scheduler) == len(self.waiting()) <= BOUNDS.max_queued_items

    @invariant()
    def wakes_in_time(self) -> None:
        event = self.scheduler.next_event(self.now)
        deadlines = [ticket.deadline for ticket in self.waiting()]
        dues = [queue[0][1] + BOUNDS.max_delay for queue in self.queues.values() if queue]
        assert event <= min(deadlines, default=math.inf)
        assert event <= min((due for due in dues if due > self.now), default=math.inf)

    def teardown(self) -> None:
        """Whatever is left can be taken out: nothing is stuck, nothing is lost."""
        self.scheduler.draining = True
        for _ in range(len(self.waiting())):
            self.take_batch_now()
        assert not self.waiting()
        assert len(self.scheduler) == 0
        assert self.scheduler.next_batch(self.now) is None

    def take_batch_now(self) -> None:
        if self.waiting():
            batch = self.scheduler.next_batch(self.now)
            assert batch is not None
            self.leave(list(batch.tickets), "batched")


SchedulerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestScheduler = SchedulerMachine.TestCase
