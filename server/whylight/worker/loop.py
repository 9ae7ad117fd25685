"""The threads of a worker: one reads, some decode, one computes, one writes; knows neither torch nor any method.

Long work is done a step at a time between batches, by the rule of docs/decisions/0009.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from whylight.engine import frames
from whylight.errors import InternalError, MethodFailed, WhylightError
from whylight.explanation import Explained
from whylight.latest import Latest
from whylight.subject.cancel import CancelToken
from whylight.v1 import catalog_pb2
from whylight.wire import seconds_to_duration
from whylight.worker.result import result_frame, typed_error
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

_LONG = (catalog_pb2.METHOD_KIND_SYNTHESIS, catalog_pb2.METHOD_KIND_INSPECTION)

_ALIVE = 1.0
"""Seconds between two signs of life of long work, and of a batch whose pictures are still decoded."""

News: TypeAlias = worker_pb2.ItemProgress | worker_pb2.ItemPreview
Ended: TypeAlias = Sequence[tuple[int, Explained | WhylightError]]


class Service(Protocol):
    """What the loop calls. `explain` and `begin` are called from one thread only, the one that runs `Loop.run`."""

    def answer(self, question: worker_pb2.PlanRequest) -> worker_pb2.PlanReply:
        """Say whether some work is valid. Raises nothing."""

    def plan(self, spec: worker_pb2.PlanSpec) -> Any:
        """Return what `decode` and `explain` want to know of the work."""

    def decode(self, plan: Any, item: worker_pb2.Item) -> Any:
        """Return an item ready for `explain`, or raise."""

    def explain(
        self,
        plan: Any,
        items: Sequence[Any],
        cancels: Sequence[CancelToken],
        tell: Callable[[worker_pb2.ItemProgress], None],
    ) -> Sequence[Explained | WhylightError]:
        """Return an outcome for each item, in their order; until then, `tell` how far they are."""

    def begin(
        self, plan: Any, items: Sequence[Any], cancels: Sequence[CancelToken], tell: Callable[[News], None]
    ) -> Generator[Ended, None, None]:
        """Return long work on items, to be advanced a step by each `next`, which says what of them has ended by then.

        It looks at the tokens before each step. Closing it frees what it holds.
        """

    def sound(self) -> bool:
        """Whether the device can go on."""


class DeviceLost(RuntimeError):
    """The device does not work any more; only a new process can use it again."""


@dataclass(frozen=True)
class _Job:
    batch: worker_pb2.Batch
    received: float
    plan: Future[Any]
    inputs: tuple[Future[Any], ...]
    cancels: tuple[CancelToken, ...]


@dataclass
class _Running:
    """Long work that was begun: `ids` of its items, the places of those that are `open`, seconds spent."""

    batch_id: int
    ids: Sequence[int]
    open: set[int]
    slices: Generator[Ended, None, None]
    queue_time: float
    busy: float
    suspect: bool = False


@dataclass(frozen=True)
class _Result:
    id: int
    outcome: Explained | WhylightError
    queue_time: float


@dataclass(frozen=True)
class _News:
    """There is progress of an item to be told, unless the item has its result by now."""

    id: int


class Loop:
    """Works off what the front end says until it drains or is gone.

    While one batch computes, the items of the next are decoded; results are turned into bytes and written by a thread
    of their own, so that the device never waits for the socket. Whatever goes wrong with an item is that item's result.
    Of an item's progress only the newest waits to be written, and none of it once the item has its result.
    """

    def __init__(
        self,
        connection: socket.socket,
        service: Service,
        *,
        decode_threads: int = 2,
        orphaned: Callable[[], None] = lambda: None,
    ) -> None:
        """Speak over `connection`. `orphaned` is called, from a daemon thread, when the front end is gone."""
        self._connection = connection
        self._service = service
        self._orphaned = orphaned
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="whylight-decode")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[_Result | _News | worker_pb2.WorkerFrame | None] = queue.SimpleQueue()
        self._news: Latest[int, worker_pb2.ItemProgress] = Latest()
        self._cancels: dict[int, CancelToken] = {}
        self._lock = threading.Lock()
        self._running: deque[_Running] = deque()
        self._alive_at = 0.0

    def run(self) -> None:
        """Read, decode, compute and write until everything asked for is done; compute in the calling thread.

        Raises:
            DeviceLost: the device is of no more use; what was done is written.
        """
        threading.Thread(target=self._read, name="whylight-read", daemon=True).start()
        writer = threading.Thread(target=self._write, name="whylight-write", daemon=True)
        writer.start()
        try:
            self._compute()
        finally:
            while self._running:
                self._running.popleft().slices.close()
            self._decoders.shutdown(wait=False, cancel_futures=True)
            self._outbox.put(None)
            writer.join()

    # The thread that reads.

    def _read(self) -> None:
        try:
            while (frame := frames.receive(self._connection, worker_pb2.FrontEndFrame)) is not None:
                match frame.WhichOneof("body"):
                    case "plan":
                        self._decoders.submit(self._answer, frame.plan)
                    case "batch":
                        self._jobs.put(self._take(frame.batch))
                    case "cancel":
                        self._cancel(frame.cancel.item_ids)
                    case "drain":
                        self._jobs.put(None)
        except (OSError, RuntimeError) as error:  # RuntimeError: the decoders take no more, for the loop has ended
            _log.error("the front end broke off: %s", error)
        self._cancel(list(self._cancels))
        self._jobs.put(None)
        self._orphaned()

    def _take(self, batch: worker_pb2.Batch) -> _Job:
        """Begin to decode a batch. Threads serve in order, so that none waits for a plan that no thread is left for."""
        cancels = tuple(CancelToken() for _ in batch.items)
        with self._lock:
            self._cancels.update((item.item_id, cancel) for item, cancel in zip(batch.items, cancels, strict=True))
        plan = self._decoders.submit(self._service.plan, batch.spec)
        inputs = tuple(
            self._decoders.submit(self._decode, plan, item, cancel)
            for item, cancel in zip(batch.items, cancels, strict=True)
        )
        return _Job(batch, time.perf_counter(), plan, inputs, cancels)

    def _cancel(self, ids: Sequence[int]) -> None:
        with self._lock:
            tokens = [self._cancels[id] for id in ids if id in self._cancels]
        for token in tokens:
            token.cancel()

    # The threads that decode.

    def _answer(self, question: worker_pb2.PlanRequest) -> None:
        reply = self._service.answer(question)
        self._outbox.put(worker_pb2.WorkerFrame(plan=reply))

    def _decode(self, plan: Future[Any], item: worker_pb2.Item, cancel: CancelToken) -> Any:
        cancel.check()
        return self._service.decode(plan.result(), item)

    # The thread that computes.

    def _compute(self) -> None:
        """Work off batches as they come, and long work while none waits; between two batches, one step of it."""
        drained = owed = False
        while self._running or not drained:
            if self._running and (owed or self._jobs.empty()):
                owed = False
                self._advance(self._running.popleft())
                continue
            job = self._jobs.get()
            if job is None:
                drained = True
            elif job.batch.spec.kind in _LONG:
                self._begin(job)
            else:
                self._work_off(job)
                owed = True

    def _begin(self, job: _Job) -> None:
        begin = time.perf_counter()
        ready = self._ready(job)
        if not ready:
            self._done(job.batch.batch_id, time.perf_counter() - begin)
            return
        ids, items, cancels = zip(*ready, strict=True)
        slices = self._service.begin(job.plan.result(), items, cancels, self._tell)
        now = time.perf_counter()
        self._running.append(
            _Running(job.batch.batch_id, ids, set(range(len(ids))), slices, now - job.received, now - begin)
        )

    def _advance(self, running: _Running) -> None:
        """Take one step of long work, and put it behind what else runs unless it has ended."""
        begin = time.perf_counter()
        ended: Ended = ()
        try:
            ended = next(running.slices)
        except StopIteration:
            ended = [(place, InternalError("the server lost the result")) for place in sorted(running.open)]
        except (Exception, SystemExit) as error:
            ended = [(place, typed_error(error, "long work failed")) for place in sorted(running.open)]
        running.busy += time.perf_counter() - begin
        for place, outcome in ended:
            running.open.discard(place)
            running.suspect |= isinstance(outcome, MethodFailed | InternalError)
            self._deliver(running.ids[place], outcome, running.queue_time)
        if running.open:
            self._running.append(running)
            self._say_alive()
            return
        running.slices.close()
        self._done(running.batch_id, running.busy)
        self._check_device(running.suspect)

    def _say_alive(self) -> None:
        now = time.monotonic()
        if now >= self._alive_at + _ALIVE:
            self._alive_at = now
            self._outbox.put(worker_pb2.WorkerFrame(alive=worker_pb2.Alive()))

    def _done(self, batch_id: int, busy: float) -> None:
        done = worker_pb2.BatchDone(batch_id=batch_id, busy_time=seconds_to_duration(busy))
        self._outbox.put(worker_pb2.WorkerFrame(done=done))

    def _check_device(self, suspect: bool) -> None:
        if suspect and not self._service.sound():
            raise DeviceLost("the device does not work any more")

    def _ready(self, job: _Job) -> list[tuple[int, Any, CancelToken]]:
        """Return what could be decoded; the rest has its error for its result."""
        ready: list[tuple[int, Any, CancelToken]] = []
        for item, future, cancel in zip(job.batch.items, job.inputs, job.cancels, strict=True):
            try:
                while not wait((future,), _ALIVE).done:
                    self._say_alive()
                ready.append((item.item_id, future.result(), cancel))
            except (Exception, SystemExit) as error:
                self._deliver(item.item_id, typed_error(error, "decoding an input failed"), 0.0)
        return ready

    def _work_off(self, job: _Job) -> None:
        begin = time.perf_counter()
        ready = self._ready(job)
        started = time.perf_counter()
        suspect = False
        if ready:
            ids, inputs, cancels = zip(*ready, strict=True)
            outcomes = self._explain(job.plan.result(), inputs, cancels)
            for id, outcome in zip(ids, outcomes, strict=True):
                suspect |= isinstance(outcome, MethodFailed | InternalError)
                self._deliver(id, outcome, started - job.received)
        self._done(job.batch.batch_id, time.perf_counter() - begin)
        self._check_device(suspect)

    def _explain(
        self, plan: Any, inputs: Sequence[Any], cancels: Sequence[CancelToken]
    ) -> Sequence[Explained | WhylightError]:
        try:
            outcomes = self._service.explain(plan, inputs, cancels, self._tell)
            if len(outcomes) != len(inputs):
                raise RuntimeError(f"{len(outcomes)} outcomes of {len(inputs)} inputs")
        except (Exception, SystemExit) as error:
            return [typed_error(error, "explaining a batch failed") for _ in inputs]
        return outcomes

    def _tell(self, progress: News) -> None:
        if isinstance(progress, worker_pb2.ItemPreview):  # each is wanted, not only the newest
            self._outbox.put(worker_pb2.WorkerFrame(preview=progress))
        elif self._news.put(progress.item_id, progress):
            self._outbox.put(_News(progress.item_id))

    def _deliver(self, id: int, outcome: Explained | WhylightError, queue_time: float) -> None:
        with self._lock:
            del self._cancels[id]
        self._news.take(id)
        self._outbox.put(_Result(id, outcome, queue_time))

    # The thread that writes.

    def _write(self) -> None:
        try:
            while (outgoing := self._outbox.get()) is not None:
                if isinstance(outgoing, _News):
                    self._write_news(outgoing.id)
                elif isinstance(outgoing, _Result):
                    frames.send(self._connection, result_frame(outgoing.id, outgoing.outcome, outgoing.queue_time))
                else:
                    frames.send(self._connection, outgoing)
        except OSError as error:  # Nobody listens any more; the thread that reads learns of it too and ends the loop.
            _log.error("the front end takes no more results: %s", error)

    def _write_news(self, id: int) -> None:
        news = self._news.take(id)
        if news is None:
            return
        try:
            frames.send(self._connection, worker_pb2.WorkerFrame(progress=news))
        except frames.FrameTooLong as error:  # The result is still to come: it can be done without.
            _log.warning("progress of an item is not told: %s", error)
