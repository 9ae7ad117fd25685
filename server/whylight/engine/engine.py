"""From work to results: plans it, admits it, awaits it; knows neither how calls come nor how workers run."""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from whylight.engine.bounds import Bounds
from whylight.engine.clock import Clock, LoopClock
from whylight.engine.dispatch import Dispatcher
from whylight.engine.frames import FRAME_BYTES
from whylight.engine.item import Item
from whylight.engine.plan import Plan, Planner
from whylight.engine.pool import WorkerPool
from whylight.engine.reports import BatchReport, ItemReport, tell
from whylight.engine.scheduler import Ticket
from whylight.engine.work import Work, evaluations, signature
from whylight.errors import DeadlineExceeded, InvalidInput, Unavailable, WhylightError
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.errors import error_to_proto
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

AnyResult = TypeVar("AnyResult")


class State(enum.Enum):
    """Whether the engine takes work."""

    STARTING = "starting"  # no worker has been up yet
    READY = "ready"  # at least one worker is up
    UNAVAILABLE = "unavailable"  # all workers were lost and are being started again
    DRAINING = "draining"  # it finishes what it has
    STOPPED = "stopped"


class Engine:
    """Brings work to workers and results back. All methods belong to the event loop that it is made in."""

    def __init__(
        self,
        pool: WorkerPool,
        bounds: Bounds | None = None,
        *,
        clock: Clock | None = None,
        stuck_after: float = 600.0,
        draw_seed: Callable[[], int] = lambda: random.SystemRandom().getrandbits(53),
    ) -> None:
        """Take the workers of `pool`, which `start` starts.

        A worker is killed and started again when it has work and has said nothing for `stuck_after` seconds more than
        its batch should take. `draw_seed` gives the seeds of stochastic work that has none: of 53 bits, so that clients
        whose numbers are doubles can hold them.
        """
        self._pool = pool
        self._clock = clock or LoopClock()
        self._draw_seed = draw_seed
        self._dispatcher = Dispatcher(pool, bounds or Bounds(), self._clock, stuck_after)
        self._planner = Planner(self._send_question)
        self._item_ids = itertools.count(1)
        self._state = State.STARTING
        self._retry_after = 1.0
        self._ready: dict[int, worker_pb2.Ready] = {}
        self._state_listeners: list[Callable[[State], None]] = []

    @property
    def state(self) -> State:
        """Whether the engine takes work."""
        return self._state

    @property
    def catalog(self) -> worker_pb2.Ready | None:
        """What the workers offer, as the first of them last said; None before one was up."""
        return self._ready[min(self._ready)] if self._ready else None

    @property
    def devices(self) -> list[str]:
        """Devices of all workers that have been up."""
        return [self._ready[worker].device for worker in sorted(self._ready)]

    @property
    def queued(self) -> int:
        """How many items wait for a worker."""
        return self._dispatcher.waiting

    @property
    def in_flight(self) -> int:
        """How many items are at workers."""
        return len(self._dispatcher) - self.queued

    def on_state_change(self, listener: Callable[[State], None]) -> None:
        """Call `listener` with every new state, from the event loop."""
        self._state_listeners.append(listener)

    def on_batch(self, listener: Callable[[BatchReport], None]) -> None:
        """Call `listener` with every batch that is done, from the event loop."""
        self._dispatcher.batch_listeners.append(listener)

    def on_end(self, listener: Callable[[ItemReport], None]) -> None:
        """Call `listener` with the end of every item, from the event loop, at once; it must not block."""
        self._dispatcher.end_listeners.append(listener)

    async def start(self) -> None:
        """Start the workers and return when all are up; work is taken as soon as the first one is.

        Raises:
            WorkerStartError: a worker could not start; none is left running.
        """
        try:
            await self._pool.start(self)
        except BaseException:  # Those that were up are gone, and what they held with them.
            self._close()
            raise

    async def explain(self, work: Work) -> list[v1.InputResult]:
        """Do the work and return one result for each input, in their order.

        Inputs fail one by one, with field paths that begin with ``input``. The call fails when it could not be tried,
        or when every input failed for a cause outside it (deadline, loss of the worker, shutdown). A caller that is
        cancelled takes its inputs back, wherever they are.

        Raises:
            InvalidInput, NotFound, Unsupported: the plan is not valid; field paths are those of the request. Or the
                work could never fit into the queues, or its results do not fit.
            Overloaded: the queues are full; `retry_after` says when there is likely to be room.
            DeadlineExceeded: the deadline passed, or cannot be met.
            Unavailable: there is no worker, it was lost, or the engine drains.
        """
        arrived = self._clock.now()
        self._check_ready()
        if work.deadline is not None and work.deadline <= arrived:
            raise DeadlineExceeded("the deadline passed before the work began")
        plan = await self._before(work.deadline, self._planner.plan(work.spec))
        self._check_ready()
        model = self._model(plan.spec.model)
        items = [self._item(work, plan, model, index, arrived) for index in range(len(work.inputs))]
        self._dispatcher.submit(items)
        try:
            outcomes = []
            for item in items:
                outcomes.append(await item.outcome)
                if work.room is not None and work.room.full:
                    raise work.room.error()
        finally:
            self._dispatcher.withdraw(items)
        failures = [outcome for outcome in outcomes if isinstance(outcome, WhylightError)]
        if failures and len(failures) == len(outcomes):
            raise failures[0]
        return [
            v1.InputResult(error=error_to_proto(outcome)) if isinstance(outcome, WhylightError) else outcome
            for outcome in outcomes
        ]

    def hasten(self) -> None:
        """Let batches leave unfilled from now on: no more work is to come that could fill them."""
        self._dispatcher.hasten()

    async def drain(self, grace: float = 30.0) -> None:
        """Take no more work, finish what there is within `grace` seconds, and stop the workers."""
        if self._state is State.STOPPED:
            return
        self._set_state(State.DRAINING)
        self.hasten()
        end = self._clock.now() + grace
        timer = self._clock.call_at(end, lambda: self._dispatcher.abandon(self._closed))
        try:
            await self._dispatcher.idle.wait()
        finally:
            timer.cancel()
            try:
                await self._pool.stop(max(end - self._clock.now(), 1.0))
            finally:
                self._close()

    def worker_up(self, worker: int, ready: worker_pb2.Ready) -> None:
        """Take a worker in; the pool calls it."""
        self._ready[worker] = ready
        self._planner.forget()
        if self._state in (State.STARTING, State.UNAVAILABLE):
            self._set_state(State.READY)
        self._dispatcher.add_worker(worker)

    def worker_said(self, worker: int, frame: worker_pb2.WorkerFrame) -> None:
        """Take in a result, progress, the end of a batch or the answer about a plan; the pool calls it."""
        if worker not in self._dispatcher.roster:
            return
        if not frame.HasField("plan"):  # another thread of the worker answers those, even when its plugin hangs
            self._dispatcher.roster.hear(worker, self._clock.now())
        match frame.WhichOneof("body"):
            case "result":
                self._dispatcher.take_result(frame.result)
            case "progress":
                self._dispatcher.take_progress(frame.progress)
            case "preview":
                self._dispatcher.take_preview(frame.preview)
            case "alive":
                pass
            case "done":
                self._dispatcher.take_done(worker, frame.done)
            case "plan":
                self._planner.answered(frame.plan)
            case other:
                _log.error("worker %d said %r, which has no meaning now", worker, other)

    def worker_down(self, worker: int, retry_after: float) -> None:
        """Fail what a worker held; what waits goes on waiting, unless nobody could be brought back."""
        was_up = worker in self._dispatcher.roster
        self._retry_after = retry_after
        self._dispatcher.remove_worker(worker, self._lost)
        self._planner.worker_lost(worker, self._lost)
        if not self._dispatcher.roster:
            if self._state is State.READY:
                self._set_state(State.UNAVAILABLE)
            if not was_up:
                self._dispatcher.abandon(self._lost, waiting_only=True)

    def _close(self) -> None:
        self._set_state(State.STOPPED)
        self._dispatcher.close(self._closed)
        self._planner.close(self._closed)

    def _item(self, work: Work, plan: Plan, model: catalog_pb2.Model | None, index: int, arrived: float) -> Item:
        input = work.inputs[index]
        seeds: tuple[int, ...] = ()
        if any(plan.stochastic):
            given = work.seeds or (None,) * len(plan.stochastic)
            seeds = tuple(
                (self._draw_seed() if seed is None else seed) if stochastic else 0
                for stochastic, seed in zip(plan.stochastic, given, strict=True)
            )
        ticket = Ticket(
            id=next(self._item_ids),
            queue=(plan.key, signature(input)),
            cost=plan.item_cost(len(input.targets)) * evaluations(input, model),
            size=input.ByteSize() + sum(picture.ByteSize() for picture in work.pictures),
            deadline=math.inf if work.deadline is None else work.deadline,
        )
        if ticket.size > FRAME_BYTES // 2:
            raise InvalidInput(
                f"an input has {ticket.size} bytes, more than the {FRAME_BYTES // 2} that a worker takes",
                reason="REQUEST_TOO_LARGE",
            )
        outcome = asyncio.get_running_loop().create_future()
        return Item(
            ticket,
            plan,
            input,
            seeds,
            arrived,
            outcome,
            work.room,
            work.watch,
            index,
            work.pictures,
            work.preview_interval,
            work.trace,
        )

    def _model(self, name: str) -> catalog_pb2.Model | None:
        return next((model for model in self.catalog.models if model.name == name), None) if self.catalog else None

    def _send_question(self, question: worker_pb2.PlanRequest) -> int:
        worker = self._dispatcher.roster.least_loaded()
        if worker is None:
            raise self._closed()
        self._pool.send(worker, worker_pb2.FrontEndFrame(plan=question))
        return worker

    async def _before(self, deadline: float | None, work: Coroutine[Any, Any, AnyResult]) -> AnyResult:
        """Await something, but not beyond `deadline`."""
        if deadline is None:
            return await work
        task = asyncio.ensure_future(work)
        late = False

        def expire() -> None:
            nonlocal late
            late = task.cancel()

        timer = self._clock.call_at(deadline, expire)
        try:
            return await task
        except asyncio.CancelledError:
            if late:
                raise DeadlineExceeded("the deadline passed before the work began") from None
            raise
        finally:
            timer.cancel()

    def _check_ready(self) -> None:
        if self._state is not State.READY:
            raise self._closed()

    def _lost(self) -> Unavailable:
        return Unavailable(
            "the worker was lost; another is started", reason="WORKER_LOST", retry_after=self._retry_after
        )

    def _closed(self) -> Unavailable:
        if self._state is State.STARTING:
            return Unavailable("the server is loading its models", reason="MODEL_LOADING", retry_after=1.0)
        if self._state in (State.DRAINING, State.STOPPED):
            return Unavailable("the server is shutting down", reason="DRAINING", retry_after=1.0)
        return self._lost()

    def _set_state(self, state: State) -> None:
        if state is not self._state:
            _log.info("the engine is %s", state.value)
            self._state = state
            tell(self._state_listeners, state)
