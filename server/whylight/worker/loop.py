"""The threads of a worker: one reads, one computes, others decode and write; knows neither torch nor any method.

Long work is done a step at a time between batches, by the rules of docs/decisions/0009 and 0011.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

from whylight.engine import frames
from whylight.engine.log_line import working_for
from whylight.errors import InternalError, MethodFailed, WhylightError
from whylight.explanation import Explained
from whylight.subject.cancel import CancelToken
from whylight.wire import seconds_to_duration
from whylight.worker.intake import Decoding, Intake, Job
from whylight.worker.loader import Loader
from whylight.worker.outbox import PREVIEW_BYTES, Outbox, Preview
from whylight.worker.pulse import BeatingToken, Pulse
from whylight.worker.result import result_frame, typed_error
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

_ALIVE = 1.0
"""Seconds between two signs of life of work that goes on."""

News: TypeAlias = worker_pb2.ItemProgress | Preview
Ended: TypeAlias = Sequence[tuple[int, Explained | WhylightError]]


class Service(Decoding, Protocol):
    """What the loop calls. `explain` and `begin` are called from one thread only, the one that runs `Loop.run`."""

    def answer(self, question: worker_pb2.PlanRequest) -> worker_pb2.PlanReply:
        """Say whether some work is valid. Raises nothing."""

    def load(self, request: worker_pb2.LoadModel) -> worker_pb2.ModelLoaded:
        """Load a version of a model. Called from a thread of its own; raises nothing."""

    def unload(self, request: worker_pb2.UnloadModel) -> worker_pb2.ModelUnloaded:
        """Forget a version of a model. Called from the thread that loads; raises nothing."""

    def explain(
        self,
        plan: Any,
        items: Sequence[Any],
        cancels: Sequence[CancelToken],
        tell: Callable[[worker_pb2.ItemProgress], None],
        ahead: Any = None,
    ) -> Sequence[Explained | WhylightError]:
        """Return an outcome for each item, in their order; until then, `tell` how far they are.

        `ahead` is what `gather` gave for the same items, None where it failed.
        """

    def begin(
        self, plan: Any, items: Sequence[Any], cancels: Sequence[CancelToken], tell: Callable[[News], None]
    ) -> Generator[Ended, None, None]:
        """Return long work on items, to be advanced a step by each `next`, which says what of them has ended by then.

        It looks at the tokens before each step. Closing it frees what it holds.
        """

    def sound(self) -> bool:
        """Whether the device can go on."""

    def device_use(self) -> worker_pb2.DeviceUse | None:
        """Return what is held of the device, None where it is the host. Called from a thread of its own."""


class DeviceLost(RuntimeError):
    """The device does not work any more; only a new process can use it again."""


@dataclass
class _Running:
    """Long work that was begun: `ids` of its items, the places of those that are `open`, seconds spent."""

    job: Job
    ids: Sequence[int]
    open: set[int]
    slices: Generator[Ended, None, None]
    queue_time: float
    busy: float = 0.0
    suspect: bool = False


class Loop:
    """Works off what the front end says until it drains or is gone.

    The thread that computes is given nothing but what is ready: items are decoded and sent to the device, and results
    turned into bytes and written, by other threads, so that it waits neither for a picture nor for the socket.
    Whatever goes wrong with an item is that item's result. While work goes on the front end is told so once a second,
    by a thread of its own; of work that hangs it hears nothing.
    """

    def __init__(
        self,
        connection: socket.socket,
        service: Service,
        *,
        decode_threads: int = 2,
        preview_bytes: int = PREVIEW_BYTES,
        orphaned: Callable[[], None] = lambda: None,
    ) -> None:
        """Speak over `connection`. `orphaned` is called, from a daemon thread, when the front end is gone."""
        self._connection = connection
        self._service = service
        self._orphaned = orphaned
        self._intake = Intake(service, decode_threads)
        self._answers = ThreadPoolExecutor(1, thread_name_prefix="whylight-plan")
        self._loader = Loader(service)
        self._outbox = Outbox(connection, preview_bytes)
        self._pulse = Pulse()
        self._cancels: dict[int, CancelToken] = {}
        self._lock = threading.Lock()
        self._running: deque[_Running] = deque()
        self._batch_ended = 0.0

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded, by a thread that nobody can stop."""
        return self._loader.busy

    def run(self) -> None:
        """Read, decode, compute and write until everything asked for is done; compute in the calling thread.

        Raises:
            DeviceLost: the device is of no more use; what was done is written.
        """
        self._outbox.start()
        self._loader.start(self._say_loaded)
        threading.Thread(target=self._read, name="whylight-read", daemon=True).start()
        threading.Thread(
            target=self._pulse.tell, args=(_ALIVE, self._say_alive), name="whylight-alive", daemon=True
        ).start()
        try:
            self._compute()
        finally:
            while self._running:
                self._running.popleft().slices.close()
            self._intake.shut_down()
            self._answers.shutdown(wait=False, cancel_futures=True)
            self._pulse.stop()
            self._outbox.close()

    def _say_alive(self) -> None:
        self._outbox.say(worker_pb2.WorkerFrame(alive=worker_pb2.Alive(device_use=self._service.device_use())))

    def _say_loaded(self, frame: worker_pb2.WorkerFrame) -> None:
        self._outbox.say(frame)
        self._pulse.beat()  # so that it is told what the device holds now

    # The thread that reads.

    def _read(self) -> None:
        try:
            while (frame := frames.receive(self._connection, worker_pb2.FrontEndFrame)) is not None:
                match frame.WhichOneof("body"):
                    case "plan":
                        self._answers.submit(self._answer, frame.plan)
                    case "batch":
                        self._take(frame.batch)
                    case "cancel":
                        self._cancel(frame.cancel.item_ids)
                    case "load":
                        self._loader.load(frame.load)
                    case "unload":
                        self._loader.unload(frame.unload)
                    case "drain":
                        self._intake.close()
        except (OSError, RuntimeError) as error:  # RuntimeError: the pools take no more, for the loop has ended
            _log.error("the front end broke off: %s", error)
        except Exception:  # There is no memory for what it says, say: a worker that hears nothing is of no use.
            _log.exception("the thread that reads failed; this process ends")
        self._cancel(list(self._cancels))
        self._intake.close()
        self._orphaned()

    def _take(self, batch: worker_pb2.Batch) -> None:
        cancels = [BeatingToken(self._pulse) for _ in batch.items]
        with self._lock:
            self._cancels.update((item.item_id, cancel) for item, cancel in zip(batch.items, cancels, strict=True))
        self._intake.take(batch, cancels)

    def _cancel(self, ids: Sequence[int]) -> None:
        with self._lock:
            tokens = [self._cancels[id] for id in ids if id in self._cancels]
        for token in tokens:
            token.cancel()

    def _answer(self, question: worker_pb2.PlanRequest) -> None:
        self._outbox.say(worker_pb2.WorkerFrame(plan=self._service.answer(question)))

    # The thread that computes.

    def _compute(self) -> None:
        """Work off what is ready, and long work while nothing is; between two batches, one step of it."""
        owed = False
        while True:
            if self._running and (owed or not len(self._intake)):
                owed = False
                running = self._running.popleft()
                with working_for(running.job.batch.request_ids):
                    self._advance(running)
                del running
                continue
            job = self._intake.get()
            if job is None:
                return
            with working_for(job.batch.request_ids):
                if job.long:
                    self._begin(job)
                else:
                    self._work_off(job)
                    owed = True
            del job  # it holds its model, which may be forgotten while this thread waits for the next one

    def _begin(self, job: Job) -> None:
        ready = self._ready(job)
        if not ready:
            self._done(job, 0.0, 0.0)
            return
        ids, items, cancels = zip(*ready, strict=True)
        slices = self._service.begin(job.plan.result(), items, cancels, self._tell)
        self._running.append(_Running(job, ids, set(range(len(ids))), slices, time.perf_counter() - job.received))

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
        self._pulse.beat()
        for place, outcome in ended:
            running.open.discard(place)
            running.suspect |= isinstance(outcome, MethodFailed | InternalError)
            self._deliver(running.ids[place], outcome, running.queue_time, slow=True)
        if running.open:
            self._running.append(running)
            return
        running.slices.close()
        self._done(running.job, running.busy, running.busy)
        self._check_device(running.suspect)

    def _done(self, job: Job, busy: float, computing: float) -> None:
        done = worker_pb2.BatchDone(
            batch_id=job.batch.batch_id,
            busy_time=seconds_to_duration(busy),
            compute_time=seconds_to_duration(computing),
        )
        self._outbox.deliver(lambda: worker_pb2.WorkerFrame(done=done), slow=job.long)

    def _check_device(self, suspect: bool) -> None:
        if suspect and not self._service.sound():
            raise DeviceLost("the device does not work any more")

    def _ready(self, job: Job) -> list[tuple[int, Any, CancelToken]]:
        """Return what could be decoded; the rest has its error for its result."""
        ready: list[tuple[int, Any, CancelToken]] = []
        for item, future, cancel in zip(job.batch.items, job.inputs, job.cancels, strict=True):
            try:
                ready.append((item.item_id, future.result(), cancel))
            except (Exception, SystemExit) as error:
                outcome = typed_error(error, "decoding an input failed")
                self._deliver(item.item_id, outcome, 0.0, slow=job.long)
        return ready

    def _work_off(self, job: Job) -> None:
        started = time.perf_counter()
        ready = self._ready(job)
        suspect = False
        if ready:
            ids, inputs, cancels = zip(*ready, strict=True)
            outcomes = self._explain(job, inputs, cancels)
            for id, outcome in zip(ids, outcomes, strict=True):
                suspect |= isinstance(outcome, MethodFailed | InternalError)
                self._deliver(id, outcome, started - job.received, slow=False)
        ended = time.perf_counter()
        self._pulse.beat()
        # What the front end learns its pace from: decoding that nothing hides takes its time too.
        self._done(job, ended - max(job.received, self._batch_ended), ended - started)
        self._batch_ended = ended
        self._check_device(suspect)

    def _explain(
        self, job: Job, inputs: Sequence[Any], cancels: Sequence[CancelToken]
    ) -> Sequence[Explained | WhylightError]:
        try:
            outcomes = self._service.explain(job.plan.result(), inputs, cancels, self._tell, job.ahead)
            if len(outcomes) != len(inputs):
                raise RuntimeError(f"{len(outcomes)} outcomes of {len(inputs)} inputs")
        except (Exception, SystemExit) as error:
            return [typed_error(error, "explaining a batch failed") for _ in inputs]
        return outcomes

    def _tell(self, news: News) -> None:
        if isinstance(news, Preview):
            self._outbox.show(news)
        else:
            self._outbox.tell(news)

    def _deliver(self, id: int, outcome: Explained | WhylightError, queue_time: float, *, slow: bool) -> None:
        with self._lock:
            del self._cancels[id]
        self._outbox.forget(id)
        self._outbox.deliver(partial(result_frame, id, outcome, queue_time), slow=slow)
