"""From work to results: plans it, admits it, awaits it; knows neither how calls come nor how workers run."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, TypeVar

from whylight.engine.bounds import Bounds
from whylight.engine.clock import Clock, LoopClock
from whylight.engine.dispatch import Dispatcher
from whylight.engine.item_maker import ItemMaker
from whylight.engine.model_control import ModelControl
from whylight.engine.model_table import ModelChoice, ModelTable
from whylight.engine.plan import Plan, Planner
from whylight.engine.pool import WorkerPool
from whylight.engine.reports import BatchReport, ItemReport, Load, tell
from whylight.engine.response_cache import Edition, ResponseCache
from whylight.engine.second_models import SecondModels
from whylight.engine.version import Version
from whylight.engine.work import Work
from whylight.errors import DeadlineExceeded, Unavailable, WhylightError
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.errors import error_to_proto
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

AnyResult = TypeVar("AnyResult")
_Outcome: TypeAlias = "v1.InputResult | WhylightError"

_SIGNS_OF_LIFE = frozenset(("result", "progress", "preview", "alive", "done"))
"""What is said of work that goes on. Plans are answered, and models loaded, even by a worker whose plugin hangs."""


class State(enum.Enum):
    """Whether the engine takes work."""

    STARTING = "starting"  # a model that is to be there from the start has not been loaded yet
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
        models: Sequence[ModelChoice] = (),
        stuck_after: float = 600.0,
        load_timeout: float = 600.0,
        draw_seed: Callable[[], int] = lambda: random.SystemRandom().getrandbits(53),
        cache: ResponseCache | None = None,
        charge: Callable[[float], None] = lambda cost: None,
    ) -> None:
        """Take the workers of `pool`, which `start` starts; `cache` holds answers that were given before.

        Models that workers have and that are not among `models` are served too, but not loaded by other workers. A
        load that takes longer than `load_timeout` seconds has failed.

        A worker is killed and started again when it has work and has said nothing for `stuck_after` seconds more than
        its batch should take. `draw_seed` gives the seeds of stochastic work that has none: of 53 bits, so that clients
        whose numbers are doubles can hold them. `charge` is told, in the task of the caller, what its work costs before
        any of it is queued, and refuses by raising a WhylightError; it is given back what is then refused for another
        cause.
        """
        self._pool = pool
        self._clock = clock or LoopClock()
        self._cache = cache
        self._charge = charge
        self._bounds = bounds or Bounds()
        self._items = ItemMaker(self._bounds, draw_seed)
        self._dispatcher = dispatcher = Dispatcher(pool, self._bounds, self._clock, stuck_after)
        self._table = ModelTable(models)
        self._table.listeners.append(self._models_changed)
        self.models = ModelControl(
            self._table,
            pool,
            holds=dispatcher.roster.hold,
            let_go=dispatcher.roster.let_go,
            switched=lambda: self._planner.forget(),
            outdated=lambda version: dispatcher.abandon(
                self._lost, waiting_only=True, of=lambda plan: plan.version == version
            ),
            load_timeout=load_timeout,
        )
        self._planner = Planner(self._send_question)
        self._call_ids = itertools.count(1)
        self._state = State.STARTING
        self._retry_after = 1.0
        self._second_models = SecondModels()
        self._ready: dict[int, worker_pb2.Ready] = {}
        self._state_listeners: list[Callable[[State], None]] = []
        self._catalog: worker_pb2.Ready | None = None

    @property
    def state(self) -> State:
        """Whether the engine takes work."""
        return self._state

    @property
    def catalog(self) -> worker_pb2.Ready | None:
        """What the workers offer, all models with their states; None before one was up.

        Methods, metrics and plugins are as the first worker last said: all have the same. Not to be changed.
        """
        if self._catalog is None and self._ready:
            self._catalog = worker_pb2.Ready()
            self._catalog.CopyFrom(self._ready[min(self._ready)])
            del self._catalog.models[:]
            self._catalog.models.extend(self._table.models())
        return self._catalog

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

    @property
    def load(self) -> Load:
        """What it has before it now; any thread may ask."""
        schedulers = (self._dispatcher.scheduler, self._dispatcher.long)
        cache = self._cache
        return Load(
            waiting=self.queued,
            waiting_cost=self._dispatcher.scheduler.cost,
            waiting_size=sum(scheduler.size for scheduler in schedulers),
            in_flight=self.in_flight,
            plan_hits=self._planner.hits,
            plan_misses=self._planner.misses,
            answer_hits=cache.hits if cache else 0,
            answer_misses=cache.misses if cache else 0,
            answer_size=cache.size if cache else 0,
        )

    def on_state_change(self, listener: Callable[[State], None]) -> None:
        """Call `listener` with every new state, from the event loop."""
        self._state_listeners.append(listener)

    def on_batch(self, listener: Callable[[BatchReport], None]) -> None:
        """Call `listener` with every batch that is done, from the event loop."""
        self._dispatcher.batch_listeners.append(listener)

    def on_end(self, listener: Callable[[ItemReport], None]) -> None:
        """Call `listener` with the end of every item, from the event loop, at once; it must not block."""
        self._dispatcher.end_listeners.append(listener)

    def on_models_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` from the event loop whenever the catalog's models, or their states, may have changed."""
        self._table.listeners.append(lambda _: listener())

    def pinned(self, model: str) -> AbstractContextManager[catalog_pb2.Model]:
        """Keep the current version of a model while one call works with it, and yield what is known of it.

        Work whose `spec.generation` is that of the version is done on it, whatever becomes of the model meanwhile.

        Raises:
            NotFound, Unsupported, Unavailable: the model does not answer calls; see `ModelTable.pinned`.
        """
        return self._table.pinned(model)

    async def start(self) -> None:
        """Start the workers and return when all are up; work is taken as soon as there is one for each model.

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
            Unavailable: there is no worker, it was lost, the model is being loaded, or the engine drains.
        """
        arrived = self._clock.now()
        self._check_ready()
        if work.deadline is not None and work.deadline <= arrived:
            raise DeadlineExceeded("the deadline passed before the work began")
        with contextlib.ExitStack() as pins:
            model = pins.enter_context(self._table.pinned(work.spec.model, work.spec.generation))
            # A name that there is not is left to the worker, which says at which field it is.
            names = [name for name in self._second_models.of(work.spec) if name in self._table.served]
            others = tuple(Version(one, pins.enter_context(self._table.pinned(one)).generation) for one in names)
            self._table.check_together(Version(work.spec.model, model.generation), others)
            plan = await self._before(work.deadline, self._planner.plan(work.spec, model.generation, others))
            self._check_ready()
            outcomes = await self._outcomes(work, plan, model, arrived)
        failures = [outcome for outcome in outcomes if isinstance(outcome, WhylightError)]
        if failures and len(failures) == len(outcomes):
            raise failures[0]
        return [
            v1.InputResult(error=error_to_proto(outcome)) if isinstance(outcome, WhylightError) else outcome
            for outcome in outcomes
        ]

    async def _outcomes(self, work: Work, plan: Plan, model: catalog_pb2.Model, arrived: float) -> list[_Outcome]:
        """Return the outcome of each input: those that are kept, and for the rest what workers say."""
        if self._cache is None:
            return await self._work_off(work, plan, model, arrived, range(len(work.inputs)))
        edition = Edition.of(self.catalog, plan.spec, model.digest) if self.catalog else None
        keys = self._cache.keys(work, plan, edition)
        kept = [self._cache.get(key) for key in keys]
        for result in kept:
            if result is not None and work.room is not None and not work.room.take(result):
                raise work.room.error()
        missing = [index for index, result in enumerate(kept) if result is None]
        worked_off = dict(zip(missing, await self._work_off(work, plan, model, arrived, missing), strict=True))
        for index, outcome in worked_off.items():
            if isinstance(outcome, v1.InputResult):
                self._cache.put(keys[index], outcome)
        return [worked_off[index] if result is None else result for index, result in enumerate(kept)]

    async def _work_off(
        self, work: Work, plan: Plan, model: catalog_pb2.Model, arrived: float, places: Sequence[int]
    ) -> list[_Outcome]:
        """Return the outcomes of the inputs in these places. Takes them back when the caller is cancelled."""
        call = next(self._call_ids)
        items = [self._items.make(work, plan, model, index, arrived, call) for index in places]
        self._charge(cost := sum(item.ticket.cost for item in items))
        try:
            self._dispatcher.submit(items)
        except WhylightError:
            self._charge(-cost)
            raise
        try:
            outcomes = []
            for item in items:
                outcomes.append(await item.outcome)
                if work.room is not None and work.room.full:
                    raise work.room.error()
            return outcomes
        finally:
            self._dispatcher.withdraw(items)

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
        self._second_models = SecondModels(ready.methods)
        self._planner.forget()
        models = {Version(model.name, max(model.generation, 1)): model for model in ready.models}
        versions = self.models.worker_up(worker, ready.device, models)
        if self._state is State.UNAVAILABLE or (self._state is State.STARTING and self._table.started):
            self._set_state(State.READY)
        self._dispatcher.add_worker(worker, versions)

    def worker_said(self, worker: int, frame: worker_pb2.WorkerFrame) -> None:
        """Take in a result, progress, the end of a batch or the answer about a plan; the pool calls it."""
        if worker not in self._dispatcher.roster:
            return
        if frame.WhichOneof("body") in _SIGNS_OF_LIFE:
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
            case "loaded":
                self.models.loaded(worker, frame.loaded)
            case "unloaded":
                self.models.unloaded(worker, frame.unloaded)
            case other:
                _log.error("worker %d said %r, which has no meaning now", worker, other)

    def worker_down(self, worker: int, retry_after: float) -> None:
        """Fail what a worker held; what waits goes on waiting, unless nobody could be brought back."""
        was_up = worker in self._dispatcher.roster
        self._retry_after = retry_after
        self._dispatcher.remove_worker(worker, self._lost)
        self._planner.worker_lost(worker, self._lost)
        if not self._dispatcher.roster and self._state is State.READY:
            self._set_state(State.UNAVAILABLE)
        self.models.worker_down(worker, self._lost)
        if not was_up:
            holders = self._dispatcher.roster.holders
            self._dispatcher.abandon(
                self._lost, waiting_only=True, of=lambda plan: not holders(plan.version, plan.others)
            )

    def _models_changed(self, table: ModelTable) -> None:
        """Let nobody wait for a version that no worker will have, or not together with the other models it needs."""
        self._catalog = None
        self._dispatcher.abandon(
            self._lost,
            waiting_only=True,
            of=lambda plan: (
                table.is_lost(plan.version) or (bool(plan.others) and table.apart(plan.version, *plan.others))
            ),
        )

    def _close(self) -> None:
        self._set_state(State.STOPPED)
        self.models.close(self._closed)
        self._dispatcher.close(self._closed)
        self._planner.close(self._closed)

    def _send_question(self, question: worker_pb2.PlanRequest) -> int:
        version = Version(question.spec.model, question.spec.generation)
        others = [Version(name, generation) for name, generation in question.spec.other_generations.items()]
        worker = self._dispatcher.roster.least_loaded(version, others)
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
