"""Counts calls, requests, inputs and batches as they end; knows neither gRPC nor how anything is done.

All of it is called from the event loop, and reading the registry from a thread of its own waits for none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from whylight.engine.reports import BatchReport, ItemReport
from whylight.errors import WhylightError
from whylight.telemetry.calls import Call, Metadata, Request, Rpc, code_name
from whylight.telemetry.instruments import Instruments
from whylight.telemetry.labels import Names, Reasons, outcome, worst
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.scalars import duration_to_seconds
from whylight.worker.v1 import worker_pb2

Key = TypeVar("Key", bound=Hashable)
Child = TypeVar("Child")

_IN_GO = {"OK": "OK", "CANCELLED": "Canceled"}
"""gRPC codes as Go, and so every dashboard of grpc_server_handled_total, spells them, where they do not follow."""


class Metrics:
    """The counters of one server. Give its methods to whoever tells what happens.

    `caller` names who the current code works for: a name of the operator's, of which there are few.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        catalog: Callable[[], worker_pb2.Ready | None],
        caller: Callable[[], str] = lambda: "",
    ) -> None:
        self.instruments = all_ = Instruments(registry)
        self._names = Names(catalog)
        self._reasons = Reasons()
        self._caller = caller
        self._rpcs = _Kept[Rpc, _RpcMetrics](lambda rpc: _RpcMetrics(all_, rpc))
        self._work = _Kept[tuple[str, str], _WorkMetrics](lambda key: _WorkMetrics(all_, *key))
        self._requests = _Kept[tuple[str, ...], Counter](lambda key: all_.requests.labels(*key))
        self._request_times = _Kept[tuple[str, ...], Histogram](lambda key: all_.request_time.labels(*key))
        self._inputs = _Kept[tuple[str, ...], Counter](lambda key: all_.inputs.labels(*key))
        self._batches = _Kept[tuple[str, ...], Counter](lambda key: all_.batches.labels(*key))
        self._callers = _Kept[tuple[str, str], Counter](lambda key: all_.caller_requests.labels(*key))
        self._busy = _Kept[int, Counter](lambda worker: all_.worker_busy.labels(str(worker)))
        self._decoding = _Kept[str, Histogram](lambda model: all_.decode_time.labels(model))
        self._methods = _Kept[tuple[str, str], tuple[Histogram, Histogram]](
            lambda key: (all_.method_time.labels(*key), all_.render_time.labels(*key))
        )

    def call_began(self, call: Call, metadata: Metadata) -> None:
        """Count a call that began."""
        self._rpcs[call.rpc].started.inc()

    def call_ended(self, call: Call, code: str, reason: str, seconds: float) -> None:
        """Count a call that ended."""
        rpc = self._rpcs[call.rpc]
        rpc.handled[code].inc()
        rpc.handling.observe(seconds)

    def request_began(self, request: Request) -> None:
        """Count a request as open."""
        self._rpcs[request.call.rpc].open.inc()

    def request_ended(self, request: Request, code: str, reason: str, seconds: float) -> None:
        """Count a request that ended."""
        rpc = request.call.rpc.method
        model, method = self._names.model(request.model), self._names.method(request.methods)
        came_of, reason = worst([(code, reason), *request.errors])
        self._rpcs[request.call.rpc].open.dec()
        self._requests[rpc, model, method, came_of, code, self._reasons.reason(reason)].inc()
        if caller := self._caller():
            self._callers[caller, came_of].inc()
        if came_of == "ok":
            self._request_times[rpc, model, method].observe(seconds)

    def inputs_refused(self, request: Request, errors: Sequence[WhylightError]) -> None:
        """Count inputs that went no further than their check."""
        model, method = self._names.model(request.model), self._names.method(request.methods)
        for error in errors:
            self._input(model, method, error.code.name, error.reason)

    def inputs_answered(self, request: Request, results: Sequence[v1.InputResult]) -> None:
        """Observe what the worker says of each explanation."""
        model = self._names.model(request.model)
        for result in results:
            explanations = result.explained.explanations
            if not explanations:
                continue
            if explanations[0].execution.cached:  # the engine did not hear of it, and the times are of another day
                self._input(model, self._names.method(request.methods), "OK", "")
                continue
            self._decoding[model].observe(duration_to_seconds(explanations[0].execution.decode_time))
            for explanation in explanations:
                execution = explanation.execution
                method, render = self._methods[model, self._names.method((explanation.method,))]
                method.observe(duration_to_seconds(execution.compute_time))
                render.observe(duration_to_seconds(execution.render_time))

    def message_received(self, rpc: Rpc, size: int) -> None:
        """Count a message."""
        metrics = self._rpcs[rpc]
        metrics.received.inc()
        metrics.received_bytes.observe(size)

    def message_sent(self, rpc: Rpc, size: int) -> None:
        """Count a message."""
        metrics = self._rpcs[rpc]
        metrics.sent.inc()
        metrics.sent_bytes.observe(size)

    def item_ended(self, report: ItemReport) -> None:
        """Count an input that ended in the engine."""
        model, method = self._names.model(report.model), self._names.method(report.methods)
        self._input(model, method, code_name(report.code), report.reason)
        work = self._work[model, method]
        work.queue_time.observe(report.queue_time)
        if report.compute_time > 0:
            work.compute_time.observe(report.compute_time)

    def batch_done(self, report: BatchReport) -> None:
        """Count a batch that a worker finished."""
        model, method = self._names.model(report.model), self._names.method(report.methods)
        self._batches[model, method, report.reason.value].inc()
        work = self._work[model, method]
        work.batch_size.observe(report.size)
        work.batch_cost.observe(report.cost)
        work.batch_fill.observe(report.fill)
        work.batch_time.observe(report.busy_time)
        self._busy[report.worker].inc(report.compute_time)

    def _input(self, model: str, method: str, code: str, reason: str) -> None:
        reason = self._reasons.reason(reason)
        self._inputs[model, method, outcome(code, reason), code, reason].inc()


class _Kept(dict[Key, Child], Generic[Key, Child]):
    """Makes what is asked for the first time, and keeps it: finding a series by its labels costs more than counting."""

    def __init__(self, make: Callable[[Key], Child]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Key) -> Child:
        made = self[key] = self._make(key)
        return made


class _RpcMetrics:
    """The series of one RPC."""

    def __init__(self, all_: Instruments, rpc: Rpc) -> None:
        labels = (rpc.type, rpc.service, rpc.method)
        self.started = all_.rpc_started.labels(*labels)
        self.handled: _Kept[str, Counter] = _Kept(lambda code: all_.rpc_handled.labels(*labels, in_go(code)))
        self.handling = all_.rpc_handling.labels(*labels)
        self.received = all_.rpc_received.labels(*labels)
        self.sent = all_.rpc_sent.labels(*labels)
        self.received_bytes = all_.received_bytes.labels(rpc.method)
        self.sent_bytes = all_.sent_bytes.labels(rpc.method)
        self.open = all_.open_requests.labels(rpc.method)


class _WorkMetrics:
    """The series of one model with one method."""

    def __init__(self, all_: Instruments, model: str, method: str) -> None:
        def of(histogram: Histogram) -> Histogram:
            return histogram.labels(model, method)

        self.queue_time = of(all_.queue_time)
        self.compute_time = of(all_.compute_time)
        self.batch_size = of(all_.batch_size)
        self.batch_cost = of(all_.batch_cost)
        self.batch_fill = of(all_.batch_fill)
        self.batch_time = of(all_.batch_time)


def in_go(code: str) -> str:
    """Return the name of a gRPC status as Go spells it."""
    return _IN_GO.get(code) or code.title().replace("_", "")
