"""What the engine tells whoever measures: the end of every batch and of every item, as data; knows no metric."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from whylight.engine.item import Item
from whylight.engine.roster import Flight
from whylight.engine.scheduler import CloseReason
from whylight.errors import WhylightError
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.scalars import duration_to_seconds
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

AnyNews = TypeVar("AnyNews")

OK = 0
"""The code of an item that was explained, as google.rpc.Code has it; every other is one of `whylight.errors.Code`."""


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch that a worker finished. Times in seconds.

    `methods` are those of its plan, in their order; `long` tells a batch of syntheses or inspections, whose steps take
    turns with others. `cost` is in model evaluations. `queue_times` has one entry for each item, from the arrival of
    its call until the batch left for the worker. `compute_time` is what the thread of the worker that computes spent
    with it; `busy_time` is that, and what decoding took where nothing else was computed meanwhile; `flight_time` is all
    from leaving until it was done, the wait in the worker and the way included. `fill` is the share of the bound that
    it came nearest to (items, cost or bytes), at most 1. `traces` are what the calls gave as `Work.trace`, each once,
    in the order of their items.
    """

    model: str
    methods: tuple[str, ...]
    cost: float
    reason: CloseReason
    queue_times: tuple[float, ...]
    busy_time: float
    compute_time: float = 0.0
    fill: float = 0.0
    flight_time: float = 0.0
    worker: int = 0
    long: bool = False
    traces: tuple[object, ...] = ()

    @property
    def size(self) -> int:
        """How many items it had."""
        return len(self.queue_times)


@dataclass(frozen=True)
class ItemReport:
    """How one input of a call ended. Times in seconds; together they are all the time that it was in the engine.

    Every input of a call whose plan is valid ends exactly once, one that was refused for want of room or of time too,
    so that `model` and `methods` are names of the catalog. `code` is of google.rpc.Code: 0 for an explanation,
    CANCELLED for an input that its caller took back, else that of the error, whose `reason` is told too.
    `queue_time` is the wait in the queue and, where the worker told of it, in the worker; `compute_time` is the rest:
    0 for an item that never left. `cost` is in model evaluations, `trace` what its call gave.
    """

    model: str
    methods: tuple[str, ...]
    code: int
    reason: str
    queue_time: float
    compute_time: float
    cost: float = 0.0
    long: bool = False
    trace: object = None


@dataclass(frozen=True)
class Load:
    """What the engine has before it at one moment, long work included, and what it was spared since it was made.

    Cost is in model evaluations, that of long work left out, which has no bound; size is in bytes of input. Hits and
    misses are of plans that were asked for, and of answers that were kept; without a cache of answers there are none.
    """

    waiting: int
    waiting_cost: float
    waiting_size: int
    in_flight: int
    plan_hits: int
    plan_misses: int
    answer_hits: int = 0
    answer_misses: int = 0
    answer_size: int = 0


def batch_report(flight: Flight, done: worker_pb2.BatchDone, now: float) -> BatchReport:
    """Return the report of a batch that is done now, as its worker says."""
    return BatchReport(
        model=flight.model,
        methods=flight.methods,
        cost=flight.formed.cost,
        reason=flight.formed.reason,
        queue_times=flight.queue_times,
        busy_time=duration_to_seconds(done.busy_time),
        compute_time=duration_to_seconds(done.compute_time),
        fill=flight.formed.fill,
        flight_time=now - flight.sent,
        worker=flight.worker,
        long=flight.long,
        traces=flight.traces,
    )


def item_report(item: Item, outcome: v1.InputResult | WhylightError, now: float) -> ItemReport:
    """Return the report of an item that ends now."""
    code, reason = _outcome(outcome)
    total = now - item.arrived
    waited = total if item.flight is None else min(max(item.flight.sent - item.arrived, item.waited), total)
    return ItemReport(
        model=item.plan.spec.model,
        methods=tuple(method.name for method in item.plan.spec.methods),
        code=code,
        reason=reason,
        queue_time=waited,
        compute_time=total - waited,
        cost=item.ticket.cost,
        long=item.plan.long,
        trace=item.trace,
    )


def tell(listeners: Iterable[Callable[[AnyNews], None]], news: AnyNews) -> None:
    """Call every listener; one that raises keeps the news neither from the others nor from the work that goes on."""
    for listener in listeners:
        try:
            listener(news)
        except Exception:
            _log.exception("a listener failed")


def _outcome(outcome: v1.InputResult | WhylightError) -> tuple[int, str]:
    if isinstance(outcome, WhylightError):
        return int(outcome.code), outcome.reason
    if outcome.HasField("error"):
        return outcome.error.code, outcome.error.reason
    return OK, ""
