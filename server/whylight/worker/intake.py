"""Takes jobs in, has their items decoded and gathered, and hands each over when it is ready; computes nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from whylight.subject.cancel import CancelToken
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import is_long
from whylight.worker.niceness import give_way
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

DECODE_NICENESS = 5
"""By how much those who decode give way to those who compute: of a core that both want, they get a quarter."""


class Decoding(Protocol):
    """What makes items ready for the device. Called from several threads."""

    def plan(self, spec: worker_pb2.PlanSpec) -> Any:
        """Return what `decode` wants to know of the work."""

    def decode_pictures(self, plan: Any, pictures: Sequence[v1.Input], check: Callable[[], None]) -> Any:
        """Return pictures that several items of long work share, ready for `decode`. `check` is called between them."""

    def decode_together(self, plan: Any, items: Sequence[worker_pb2.Item]) -> Mapping[int, Any]:
        """Decode the pictures of items of a batch at once, as far as that is of use, for `decode`; by item id."""

    def decode(self, plan: Any, item: worker_pb2.Item, pictures: Any = None) -> Any:
        """Return an item ready for the device, or raise.

        `pictures` are what `decode_pictures` gave, if the item has any, or what `decode_together` gave for it.
        """

    def gather(self, plan: Any, items: Sequence[Any]) -> Any:
        """Send the decoded items of a batch, no long work, to the device together; return what `explain` finds them by.

        What it raises only keeps them from being sent before their turn.
        """


@dataclass(eq=False)
class Job:
    """A batch whose items are being decoded, or were; `received` in seconds, `undecoded` counts those still to do.

    `ahead` is what the service gave for the items that could be decoded, in their order; None where it failed.
    """

    batch: worker_pb2.Batch
    received: float
    plan: Future[Any]
    cancels: tuple[CancelToken, ...]
    undecoded: int
    inputs: list[Future[Any]] = field(default_factory=list)
    ahead: Any = None
    complete: bool = False

    @property
    def long(self) -> bool:
        """Whether it is done a step at a time."""
        return is_long(self.batch.spec.kind)


class Intake:
    """Jobs on their way from the thread that reads to the one that computes, which never waits for a picture.

    Batches are handed over in the order in which they came, so that the front end knows which of two is computed. Long
    work is decoded by one thread of its own, which takes no turn of a batch's, and is handed over when it is ready: the
    pictures of an inspection, which may be hundreds, hold up nobody.

    The thread that decodes the last item of a batch sends all of them to the device. It is one batch that is there
    before its turn, since the front end gives a worker no more than one beside that which it computes.

    Those who decode give way to those who compute: a pass waits for the slowest of its threads, and what is decoded
    is wanted no sooner than when the pass has ended.
    """

    def __init__(self, service: Decoding, decode_threads: int) -> None:
        self._service = service
        self._pools = {
            long: ThreadPoolExecutor(threads, f"whylight-decode{'-long' if long else ''}", give_way, (DECODE_NICENESS,))
            for long, threads in ((False, decode_threads), (True, 1))
        }
        self._changed = threading.Condition()
        self._batches: deque[Job] = deque()
        self._ready: deque[Job] = deque()
        self._undecoded = 0
        self._closed = False

    def __len__(self) -> int:
        """How many jobs are ready."""
        return len(self._ready)

    @property
    def undecoded(self) -> int:
        """How many jobs are not ready yet."""
        return self._undecoded

    def take(self, batch: worker_pb2.Batch, cancels: Sequence[CancelToken]) -> None:
        """Begin to decode a batch. Threads serve in order, so that none waits for a plan that no thread is left for.

        Raises:
            RuntimeError: it was shut down.
        """
        pool = self._pools[is_long(batch.spec.kind)]
        plan = pool.submit(self._service.plan, batch.spec)
        job = Job(batch, time.perf_counter(), plan, tuple(cancels), len(batch.items))
        with self._changed:
            self._undecoded += 1
            if not job.long:
                self._batches.append(job)
        shared = [_Shared(one.pictures) for one in batch.picture_sets]
        together = None if job.long else _Together(batch.items, cancels)
        for item, cancel in zip(batch.items, cancels, strict=True):
            pictures = shared[item.picture_set - 1] if item.picture_set else None
            future = pool.submit(self._decode, plan, item, cancel, pictures, together)
            job.inputs.append(future)
        for future in list(job.inputs):  # Only now: the last one's end hands the job over, with all of them in it.
            future.add_done_callback(partial(self._decoded, job))
        if not batch.items:
            self._hand_over(job)

    def close(self) -> None:
        """Take in that no more jobs come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def get(self) -> Job | None:
        """Wait for a job that is ready and return it; None when there will be none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or (self._closed and not self._undecoded))
            return self._ready.popleft() if self._ready else None

    def shut_down(self) -> None:
        """Decode no more."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _decode(
        self,
        plan: Future[Any],
        item: worker_pb2.Item,
        cancel: CancelToken,
        pictures: _Shared | None,
        together: _Together | None,
    ) -> Any:
        cancel.check()
        given = None
        if pictures is not None:
            given = pictures.decoded(self._service, plan.result(), cancel)
        elif together is not None:
            given = together.take(self._service, plan.result(), item.item_id)
            cancel.check()
        if given is None:
            return self._service.decode(plan.result(), item)
        return self._service.decode(plan.result(), item, given)

    def _decoded(self, job: Job, _: Future[Any]) -> None:
        with self._changed:
            job.undecoded -= 1
            last = not job.undecoded
        if last:
            self._gather(job)
            self._hand_over(job)

    def _gather(self, job: Job) -> None:
        decoded = [one.result() for one in job.inputs if not one.cancelled() and one.exception() is None]
        if not decoded or job.long:
            return
        try:
            job.ahead = self._service.gather(job.plan.result(), decoded)
        except (Exception, SystemExit) as error:  # It is done when its turn comes, and what fails then is looked into.
            _log.warning("a batch of %d could not be sent to the device before its turn: %s", len(decoded), error)

    def _hand_over(self, job: Job) -> None:
        with self._changed:
            job.complete = True
            if job.long:
                self._ready.append(job)
                self._undecoded -= 1
            while self._batches and self._batches[0].complete:
                self._ready.append(self._batches.popleft())
                self._undecoded -= 1
            self._changed.notify_all()


class _Shared:
    """Pictures that several items have, decoded when the first of them is, and once."""

    def __init__(self, pictures: Sequence[v1.Input]) -> None:
        self._pictures = pictures
        self._lock = threading.Lock()
        self._decoded: Any = None
        self._done = False

    def decoded(self, service: Decoding, plan: Any, cancel: CancelToken) -> Any:
        """Return what the service makes of them; what it raises is raised for each item anew."""
        with self._lock:
            if not self._done:
                self._decoded = service.decode_pictures(plan, self._pictures, cancel.check)
                self._done = True
                self._pictures = ()
            return self._decoded


class _Together:
    """The items of a batch, whose pictures are decoded at once when the first of them is wanted."""

    def __init__(self, items: Sequence[worker_pb2.Item], cancels: Sequence[CancelToken]) -> None:
        self._items = tuple(zip(items, cancels, strict=True))
        self._lock = threading.Lock()
        self._decoded: dict[int, Any] | None = None

    def take(self, service: Decoding, plan: Any, item_id: int) -> Any:
        """Return what there is for an item, once; None where it is to be decoded on its own."""
        with self._lock:
            if self._decoded is None:
                wanted = [item for item, cancel in self._items if not cancel.cancelled]
                self._items = ()
                try:
                    self._decoded = dict(service.decode_together(plan, wanted))
                except Exception:  # It only saves time: each is decoded on its own.
                    _log.warning("a batch of %d could not be decoded together", len(wanted), exc_info=True)
                    self._decoded = {}
            return self._decoded.pop(item_id, None)
