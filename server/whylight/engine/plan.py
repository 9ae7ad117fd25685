"""Work with its inputs left out: its key, its cost, and what the workers say of it; runs no plan."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NewType, TypeAlias

from whylight.engine.version import Version
from whylight.errors import WhylightError
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.errors import error_from_proto
from whylight.wire.kinds import is_long
from whylight.worker.v1 import worker_pb2

PlanKey = NewType("PlanKey", bytes)
"""A PlanSpec in canonical bytes: equal keys may share a batch."""


@dataclass(frozen=True)
class Plan:
    """Valid work, and what an input of it costs, in model evaluations; `stochastic` has an entry for each method.

    `others` are the versions of further models that its methods ask.
    """

    key: PlanKey
    spec: worker_pb2.PlanSpec
    cost: float
    cost_per_target: float
    stochastic: tuple[bool, ...]
    others: tuple[Version, ...] = ()

    @property
    def version(self) -> Version:
        """Which version of which model it is for."""
        return Version(self.spec.model, self.spec.generation)

    @property
    def long(self) -> bool:
        """Whether it is done in slices, between batches of other work."""
        return is_long(self.spec.kind)

    def item_cost(self, targets: int) -> float:
        """Return what one input with so many targets costs."""
        return self.cost + max(targets - 1, 0) * self.cost_per_target


def canonical(spec: worker_pb2.PlanSpec) -> worker_pb2.PlanSpec:
    """Return a copy of `spec` without what must not tell two plans apart: seeds, and options that say nothing.

    The order of the methods stays: it says which of them pays for what they share.
    """
    copy = worker_pb2.PlanSpec()
    copy.CopyFrom(spec)
    calls: list[v1.MethodCall | v1.MetricCall] = [*copy.methods, *copy.metrics]
    for call in calls:
        call.ClearField("seed")
        if not call.options.fields:
            call.ClearField("options")
    return copy


def plan_key(spec: worker_pb2.PlanSpec) -> PlanKey:
    """Return the key of a canonical spec. Equal options give equal keys, in whatever order they were set."""
    return PlanKey(spec.SerializeToString(deterministic=True))


class Planner:
    """Asks workers about plans, and remembers those that are valid, the most recently used ones.

    Refusals are not remembered: they are cheap to make again, and a crowd of wrong requests must not push out right
    ones. Callers that ask for the same plan at the same time share one question, and one of them going away does not
    take it from the others.
    """

    def __init__(self, send: Callable[[worker_pb2.PlanRequest], int], capacity: int = 1024) -> None:
        """Ask through `send`, which gives the question to a worker and returns its number."""
        self._send = send
        self._capacity = capacity
        self._plans: OrderedDict[PlanKey, Plan] = OrderedDict()
        self._questions: dict[int, _Question] = {}
        self._open: dict[PlanKey, _Question] = {}
        self._request_ids = itertools.count(1)
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._plans)

    async def plan(self, spec: worker_pb2.PlanSpec, generation: int = 0, others: tuple[Version, ...] = ()) -> Plan:
        """Return the plan of `spec`, on a version of its model and on those of others that its methods ask.

        Raises:
            WhylightError: the worker's reason why the work is not valid, or that there is no worker to ask.
        """
        spec = canonical(spec)
        spec.generation = generation
        spec.other_generations.update({other.model: other.generation for other in others})
        key = plan_key(spec)
        if key in self._plans:
            self._plans.move_to_end(key)
            self.hits += 1
            return self._plans[key]
        self.misses += 1
        question = self._open.get(key) or self._ask(key, spec)
        answer = await asyncio.shield(question.answer)
        if not isinstance(answer, worker_pb2.PlanReply):
            raise answer()
        if answer.HasField("error"):
            raise error_from_proto(answer.error)
        return self._remember(Plan(key, spec, answer.cost, answer.cost_per_target, tuple(answer.stochastic), others))

    def answered(self, reply: worker_pb2.PlanReply) -> None:
        """Take in what a worker says to a question."""
        self._close(reply.request_id, reply)

    def worker_lost(self, worker: int, error: Callable[[], WhylightError]) -> None:
        """Fail the questions that a worker was to answer."""
        for id in [id for id, question in self._questions.items() if question.worker == worker]:
            self._close(id, error)

    def close(self, error: Callable[[], WhylightError]) -> None:
        """Fail all questions: nobody is left to answer."""
        for id in list(self._questions):
            self._close(id, error)

    def forget(self) -> None:
        """Forget all plans: a new worker may see them in another way."""
        self._plans.clear()

    def _ask(self, key: PlanKey, spec: worker_pb2.PlanSpec) -> _Question:
        id = next(self._request_ids)
        worker = self._send(worker_pb2.PlanRequest(request_id=id, spec=spec))
        question = _Question(key, worker, asyncio.get_running_loop().create_future())
        self._questions[id] = self._open[key] = question
        return question

    def _close(self, id: int, answer: _Answer) -> None:
        question = self._questions.pop(id, None)
        if question is not None:
            del self._open[question.key]
            question.answer.set_result(answer)

    def _remember(self, plan: Plan) -> Plan:
        self._plans[plan.key] = plan
        while len(self._plans) > self._capacity:
            self._plans.popitem(last=False)
        return plan


_Answer: TypeAlias = worker_pb2.PlanReply | Callable[[], WhylightError]
"""What the worker says, or what each asker is to raise: one exception must not be raised by two."""


@dataclass(eq=False)
class _Question:
    key: PlanKey
    worker: int
    answer: asyncio.Future[_Answer]
