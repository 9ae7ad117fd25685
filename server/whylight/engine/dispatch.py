"""Carries admitted items to workers and their results back, each to exactly one end; knows no plans to make, no states
and no callers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from whylight.engine.bounds import Bounds
from whylight.engine.clock import Clock, Timer
from whylight.engine.deadlines import Deadlines
from whylight.engine.item import Item
from whylight.engine.plan import Plan
from whylight.engine.pool import WorkerPool
from whylight.engine.reports import BatchReport, ItemReport, batch_report, item_report, tell
from whylight.engine.roster import Flight, Roster
from whylight.engine.scheduler import FormedBatch, Scheduler, Slot
from whylight.engine.version import Version
from whylight.errors import Cancelled, InternalError, WhylightError
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.scalars import duration_to_seconds, seconds_to_duration
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)


class Dispatcher:
    """The items that live, where they are, and the timer for whatever happens to them next.

    An item lives from `submit` until its first end: a result, its deadline, the loss of its worker, or its caller going
    away. What comes for it later finds it gone and is dropped; no end of one item touches another of the same batch.
    """

    def __init__(self, pool: WorkerPool, bounds: Bounds, clock: Clock, stuck_after: float) -> None:
        self._pool = pool
        self._clock = clock
        self._stuck_after = stuck_after
        self.roster = Roster()
        self.scheduler = Scheduler(bounds, self._servers)
        self.long = Scheduler(bounds.of_long_work(), self._servers)
        self.idle = asyncio.Event()
        self.idle.set()
        self.batch_listeners: list[Callable[[BatchReport], None]] = []
        self.end_listeners: list[Callable[[ItemReport], None]] = []
        self._live: dict[int, Item] = {}
        self._flying = Deadlines()  # of the items at workers; the scheduler has those that wait
        self._batch_ids = itertools.count(1)
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._live)

    @property
    def waiting(self) -> int:
        """How many items wait for a worker."""
        return len(self.scheduler) + len(self.long)

    def hasten(self) -> None:
        """Let batches leave unfilled from now on."""
        self.scheduler.draining = self.long.draining = True
        self.pump()

    def submit(self, items: Sequence[Item]) -> None:
        """Take all of `items`, or none.

        Raises:
            WhylightError: as Scheduler.admit.
        """
        for scheduler, of_long in ((self.scheduler, False), (self.long, True)):
            tickets = [item.ticket for item in items if item.plan.long is of_long]
            if not tickets:  # the items of a call have one plan, so that all go to the same
                continue
            try:
                scheduler.admit(tickets, self._clock.now())
            except WhylightError as error:
                refusal = _of_long_work(error) if of_long else error
                self._report_ends(items, refusal)
                raise refusal from None
        self._live.update((item.ticket.id, item) for item in items)
        if items:
            self.idle.clear()
        self.pump()

    def withdraw(self, items: Iterable[Item]) -> None:
        """End those of `items` that still live: their caller went away."""
        ids = [item.ticket.id for item in items if item.ticket.id in self._live]
        if ids:
            self.scheduler.cancel(ids)
            self.long.cancel(ids)
            self._recall(ids)
            self._end(ids, lambda: Cancelled("nobody waits for this"))

    def abandon(
        self,
        error: Callable[[], WhylightError],
        *,
        waiting_only: bool = False,
        of: Callable[[Plan], bool] = lambda plan: True,
    ) -> None:
        """End every item, or every item that waits and has a plan `of` is true of, with an error."""
        everything = [id for id, item in self._live.items() if of(item.plan)]
        waiting = [one.id for scheduler in (self.scheduler, self.long) for one in scheduler.cancel(everything)]
        self._end(waiting, error)
        if not waiting_only:
            self._recall(self._live)
            self._end(list(self._live), error)

    def close(self, error: Callable[[], WhylightError]) -> None:
        """End every item with an error, and wait for nothing more."""
        self.abandon(error)
        if self._timer:
            self._timer.cancel()

    def add_worker(self, worker: int, versions: Iterable[Version]) -> None:
        """Count a worker in that has these versions of models, and give it work."""
        self.roster.add(worker, self._clock.now(), versions)
        self.scheduler.throughput.workers = self.long.throughput.workers = len(self.roster)
        self.pump()

    def remove_worker(self, worker: int, error: Callable[[], WhylightError]) -> None:
        """Count a worker out; what it held ends with an error."""
        for flight in self.roster.remove(worker):
            (self.long if flight.long else self.scheduler).given_up()
            self._end([ticket.id for ticket in flight.formed.tickets], error)
        self.scheduler.throughput.workers = self.long.throughput.workers = len(self.roster)
        self.pump()

    def take_result(self, result: worker_pb2.ItemResult) -> None:
        """End an item with what its worker says of it."""
        item = self._live.get(result.item_id)
        if item is None or item.flight is None:
            return  # It was cancelled or is late: nobody waits for it.
        before = item.flight.sent - item.arrived
        for explanation in result.result.explained.explanations:
            at_worker = duration_to_seconds(explanation.execution.queue_time)
            item.waited = before + at_worker
            explanation.execution.queue_time.CopyFrom(seconds_to_duration(item.waited))
        room = item.room
        if room is None or room.take(result.result):
            self._end([result.item_id], lambda: result.result)
        else:
            self._end([result.item_id], room.error)

    def take_progress(self, progress: worker_pb2.ItemProgress) -> None:
        """Hand on what a worker says of an item that it is not done with."""
        item = self._live.get(progress.item_id)
        if item is not None and item.flight is not None and item.watch is not None:
            item.watch.tell(item.index, progress)

    def take_preview(self, preview: worker_pb2.ItemPreview) -> None:
        """Hand on what a worker shows of an item that it is not done with."""
        item = self._live.get(preview.item_id)
        if item is not None and item.flight is not None and item.watch is not None and item.watch.show is not None:
            item.watch.show(item.index, preview)

    def take_done(self, worker: int, done: worker_pb2.BatchDone) -> None:
        """Close a batch and send the next one."""
        flight = self.roster.finish(worker, done.batch_id, self._clock.now())
        if flight is None:
            _log.error("worker %d finished batch %d, which it does not have", worker, done.batch_id)
            return
        busy = duration_to_seconds(done.busy_time)
        (self.long if flight.long else self.scheduler).finished(flight.formed, busy)
        forgotten = [ticket.id for ticket in flight.formed.tickets if ticket.id in self._live]
        if forgotten:
            _log.error("worker %d gave no result for %d items of batch %d", worker, len(forgotten), flight.id)
            self._end(forgotten, lambda: InternalError("the server lost the result"))
        tell(self.batch_listeners, batch_report(flight, done, self._clock.now()))
        self.pump()

    def pump(self) -> None:
        """Send every batch that may leave, and set the timer for what comes next."""
        now = self._clock.now()
        while (formed := self.scheduler.next_batch(now, self._room)) is not None:
            self._send(formed, now)
        while (long := self.long.next_batch(now, self._long_room)) is not None:
            self._send(long, now)
        self._set_timer(now, self.scheduler.held_until)

    def _servers(self, queue: Hashable) -> list[int]:
        return self.roster.holders(*_models(queue))

    def _room(self, queue: Hashable) -> Slot | None:
        return self.roster.slot(self._clock.now(), *_models(queue))

    def _long_room(self, queue: Hashable) -> Slot | None:
        return self.roster.long_slot(*_models(queue))

    def _send(self, formed: FormedBatch, now: float) -> None:
        items = [self._live[ticket.id] for ticket in formed.tickets]
        spec = items[0].plan.spec
        queue_times = tuple(now - item.arrived for item in items)
        methods = tuple(method.name for method in spec.methods)
        flight = Flight(
            next(self._batch_ids),
            formed.worker,
            formed,
            now,
            spec.model,
            methods,
            queue_times,
            long=items[0].plan.long,
            traces=tuple(dict.fromkeys(item.trace for item in items if item.trace is not None)),
        )
        request_ids = dict.fromkeys(item.request_id for item in items if item.request_id)
        batch = worker_pb2.Batch(batch_id=flight.id, spec=spec, request_ids=request_ids)
        sets: dict[int, int] = {}  # the place of each call's pictures, from 1; its items hold the very same
        for item in items:
            if item.pictures and id(item.pictures) not in sets:
                batch.picture_sets.add(pictures=item.pictures)
                sets[id(item.pictures)] = len(batch.picture_sets)
            item.flight = flight
            self._flying.add(item.ticket.id, item.ticket.deadline)
            progress = item.watch.spec if item.watch else None
            batch.items.add(
                item_id=item.ticket.id,
                input=item.input,
                seeds=item.seeds,
                progress=progress,
                picture_set=sets.get(id(item.pictures), 0),
                preview_interval=item.preview_interval,
            )
        self.roster.send(flight)
        self._pool.send(formed.worker, worker_pb2.FrontEndFrame(batch=batch))

    def _recall(self, ids: Iterable[int]) -> None:
        """Tell the workers that nobody waits for these items any more."""
        by_worker: dict[int, list[int]] = defaultdict(list)
        for id in ids:
            flight = self._live[id].flight
            if flight is not None:
                by_worker[flight.worker].append(id)
        for worker, theirs in by_worker.items():
            self._pool.send(worker, worker_pb2.FrontEndFrame(cancel=worker_pb2.Cancel(item_ids=theirs)))

    def _end(self, ids: Iterable[int], outcome: Callable[[], v1.InputResult | WhylightError]) -> None:
        """End those of `ids` that live. Each gets an outcome of its own: callers may change an error's field paths."""
        for id in ids:
            item = self._live.pop(id, None)
            if item is not None:
                self._flying.discard(id)
                item_outcome = outcome()
                item.end(item_outcome)
                self._report_ends((item,), item_outcome)
        if not self._live:
            self.idle.set()

    def _report_ends(self, items: Iterable[Item], outcome: v1.InputResult | WhylightError) -> None:
        if self.end_listeners:
            now = self._clock.now()
            for item in items:
                tell(self.end_listeners, item_report(item, outcome, now))

    def _set_timer(self, now: float, due: float) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        stuck = min(self._stuck().values(), default=math.inf)
        when = min(self.scheduler.next_event(now), self.long.next_event(now), self._flying.next(), due, stuck)
        if when < math.inf:
            self._timer = self._clock.call_at(when, self._tick)

    def _tick(self) -> None:
        now = self._clock.now()
        late = self._flying.passed(now)
        self._recall(late)
        late += [ticket.id for scheduler in (self.scheduler, self.long) for ticket in scheduler.expire(now)]
        for id in late:
            self._end((id,), self._live[id].late)
        for worker, when in self._stuck().items():
            if when <= now:
                _log.error("worker %d has work and has been silent for too long: it is killed", worker)
                self.roster.hear(worker, now)
                self._pool.kill(worker)
        self.pump()

    def _stuck(self) -> dict[int, float]:
        return self.roster.stuck_at(self._stuck_after)


def _of_long_work(error: WhylightError) -> WhylightError:
    """Name the fields of a refused call in the words of requests for long work: several inputs are its targets."""
    return error.locate({"methods": "method.options", "inputs": "targets"})


def _models(queue: Hashable) -> tuple[Version, tuple[Version, ...]]:
    """Return for which version the items of a queue are and which other models they ask: its key begins with them."""
    assert isinstance(queue, tuple)
    version, others, *_ = queue
    return version, others
