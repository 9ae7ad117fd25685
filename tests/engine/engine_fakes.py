"""A clock that stands still and workers that do as they are told, so that nothing in these tests depends on time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whylight.engine import Bounds, Engine, Work
from whylight.engine.pool import PoolListener
from whylight.errors import InvalidInput, WhylightError
from whylight.priority import Priority
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.errors import error_to_proto
from whylight.wire.scalars import seconds_to_duration
from whylight.worker.v1 import worker_pb2


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Time passes only in `advance`, which makes every call that comes due, in order, at its own time."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._calls: list[tuple[float, int, FakeTimer]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        heapq.heappush(self._calls, (when, next(self._count), timer))
        return timer

    def advance(self, seconds: float) -> None:
        end = self.time + seconds
        while self._calls and self._calls[0][0] <= end:
            when, _, timer = heapq.heappop(self._calls)
            self.time = max(self.time, when)
            if timer.callback:
                timer.callback()
        self.time = end

    @property
    def pending(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._calls)


@dataclass
class FakePool:
    """Workers whose every step a test takes. Plans are answered at once, unless `hold_plans`."""

    size: int = 1
    hold_plans: bool = False
    cost: float = 1.0
    stochastic: Sequence[bool] = ()
    models: dict[int, Sequence[str]] = field(default_factory=dict)
    """Names of the models of workers that have others than "m"."""
    methods: Sequence[catalog_pb2.Method] = ()
    listener: PoolListener | None = None
    batches: list[tuple[int, worker_pb2.Batch]] = field(default_factory=list)
    cancelled: list[tuple[int, int]] = field(default_factory=list)
    plans: list[tuple[int, worker_pb2.PlanRequest]] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)
    configured: dict[int, list[tuple[str, int]]] = field(default_factory=dict)

    async def start(self, listener: PoolListener) -> None:
        self.listener = listener
        for worker in range(self.size):
            self.up(worker)

    def send(self, worker: int, frame: worker_pb2.FrontEndFrame) -> None:
        match frame.WhichOneof("body"):
            case "batch":
                self.batches.append((worker, frame.batch))
            case "cancel":
                self.cancelled += [(worker, id) for id in frame.cancel.item_ids]
            case "plan":
                self.plans.append((worker, frame.plan))
                if not self.hold_plans:
                    asyncio.get_running_loop().call_soon(self.answer_plan)

    def configure(self, worker: int, models: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        self.configured[worker] = [(fields["name"], generation) for generation, fields in models]

    def kill(self, worker: int) -> None:
        self.killed.append(worker)

    async def stop(self, grace: float) -> None:
        self.stopped.append(grace)

    def up(self, worker: int = 0) -> None:
        models = [catalog_pb2.Model(name=name) for name in self.models.get(worker, ("m",))]
        self.listener.worker_up(worker, worker_pb2.Ready(device=f"cpu:{worker}", models=models, methods=self.methods))

    def down(self, worker: int = 0, retry_after: float = 2.0) -> None:
        self.batches = [(holder, batch) for holder, batch in self.batches if holder != worker]
        self.listener.worker_down(worker, retry_after)

    def answer_plan(self, error: WhylightError | None = None) -> None:
        worker, question = self.plans.pop(0)
        for index, method in enumerate(question.spec.methods):
            if method.name == "wrong":
                error = InvalidInput("no such method", field=f"methods[{index}].name")
        reply = worker_pb2.PlanReply(
            request_id=question.request_id, cost=self.cost, cost_per_target=0.5, stochastic=self.stochastic
        )
        if error:
            reply.error.CopyFrom(error_to_proto(error))
        self.listener.worker_said(worker, worker_pb2.WorkerFrame(plan=reply))

    def give_result(self, worker: int, item: worker_pb2.Item, *, label: str = "", waited: float = 0.0) -> None:
        """Answer an item with its own bytes as the label, so that a mix-up shows."""
        explained = v1.Explained()
        label = label or item.input.image.decode()
        execution = v1.Execution(batch_size=1, queue_time=seconds_to_duration(waited))
        for seed in item.seeds or [0]:
            explained.explanations.add(target_label=label, seed=seed, execution=execution)
        result = worker_pb2.ItemResult(item_id=item.item_id, result=v1.InputResult(explained=explained))
        self.listener.worker_said(worker, worker_pb2.WorkerFrame(result=result))

    def finish(self, *, busy: float = 1.0) -> worker_pb2.Batch:
        """Finish the batch that was sent first."""
        worker, batch = self.batches.pop(0)
        for item in batch.items:
            self.give_result(worker, item)
        self.end(worker, batch, busy=busy)
        return batch

    def end(self, worker: int, batch: worker_pb2.Batch, *, busy: float = 1.0) -> None:
        done = worker_pb2.BatchDone(batch_id=batch.batch_id, busy_time=seconds_to_duration(busy))
        self.listener.worker_said(worker, worker_pb2.WorkerFrame(done=done))


@dataclass
class Stage:
    """An engine with its fakes."""

    engine: Engine
    pool: FakePool
    clock: FakeClock

    def call(
        self,
        *names: str,
        method: str = "grad-cam",
        timeout: float | None = None,
        seeds: Sequence[int | None] = (),
        targets: int = 0,
        caller: str | None = None,
        priority: Priority = Priority.INTERACTIVE,
        trace: int | None = None,
    ) -> asyncio.Task[list[v1.InputResult]]:
        """Explain inputs that are called `names`, by one method or several with spaces between them."""
        inputs = [
            v1.Input(image=name.encode(), targets=[v1.Target(class_index=index) for index in range(targets)])
            for name in names
        ]
        deadline = None if timeout is None else self.clock.now() + timeout
        spec = spec_of(*method.split())
        work = Work(spec, inputs, seeds, deadline, caller=caller, priority=priority, trace=trace)
        return asyncio.ensure_future(self.engine.explain(work))

    @property
    def sent(self) -> list[list[str]]:
        """Names of the inputs of each batch that is at a worker, in the order of sending."""
        return [[item.input.image.decode() for item in batch.items] for _, batch in self.pool.batches]


def spec_of(*methods: str, model: str = "m", **options: float) -> worker_pb2.PlanSpec:
    calls = [v1.MethodCall(name=method) for method in methods]
    for name, value in options.items():
        for call in calls:
            call.options[name] = value
    return worker_pb2.PlanSpec(model=model, methods=calls, outputs=[v1.OutputSpec(name="map", map=v1.MapOutput())])


async def stage(
    bounds: Bounds | None = None, *, workers: int = 1, pool: FakePool | None = None, stuck_after: float = 600.0
) -> Stage:
    clock = FakeClock()
    pool = pool or FakePool(workers)
    engine = Engine(pool, bounds, clock=clock, stuck_after=stuck_after, draw_seed=itertools.count(100).__next__)
    await engine.start()
    return Stage(engine, pool, clock)


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def labels(results: list[v1.InputResult]) -> list[str]:
    return [result.explained.explanations[0].target_label for result in results]
