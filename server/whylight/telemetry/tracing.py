"""Spans of calls, of what their inputs went through, and of batches; imported only when traces are wanted.

A call's span is a child of its client's (W3C traceparent). A batch serves many calls, so its span belongs to none of
them: it is the root of a trace of its own and has a link to each, as OpenTelemetry has it for batches.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from whylight.engine.reports import BatchReport
from whylight.telemetry.calls import Call, Metadata, Request
from whylight.telemetry.observers import Deaf, requests_of
from whylight.v1 import explanation_pb2 as v1

INPUTS = 8
"""Inputs of one request whose phases get spans; a request may have hundreds."""

HEALTH = "grpc.health.v1.Health"

FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that are errors of a server's span, by the conventions for RPC; the others are the client's."""

_HEADERS = ("traceparent", "tracestate")


class Tracing(Deaf):
    """Makes the spans. A call whose client has decided whether to trace it is traced or not as the client says.

    Of the others the share `ratio` is. `provider` takes all spans that it is given: what is not to be traced never gets
    as far, so that it costs next to nothing. `caller` names who calls.
    """

    def __init__(self, provider: TracerProvider, ratio: float, caller: Callable[[], str] = lambda: "") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("whylight")
        self._ratio = ratio
        self._caller = caller
        self._propagator = TraceContextTextMapPropagator()

    def call_began(self, call: Call, metadata: Metadata) -> None:
        """Begin the span of a call, if it is to be traced."""
        if call.rpc.service == HEALTH:
            return
        parent = self._parent(metadata)
        if parent is not None:
            call.span = self._tracer.start_span(
                f"{call.rpc.service}/{call.rpc.method}",
                parent,
                SpanKind.SERVER,
                {
                    "rpc.system.name": "grpc",
                    "rpc.method": f"{call.rpc.service}/{call.rpc.method}",
                    "whylight.request_id": call.id,
                },
            )

    def call_ended(self, call: Call, code: str, reason: str, seconds: float) -> None:
        """End the span of a call."""
        if call.span is not None:
            call.span.set_attribute("rpc.response.status_code", code)
            if name := self._caller():
                call.span.set_attribute("whylight.caller", name)
            _end(call.span, code, reason)

    def request_began(self, request: Request) -> None:
        """Begin the span of a request of a stream; any other request is its call."""
        call = request.call
        if call.span is not None:
            is_call = call.rpc.is_request
            request.span = call.span if is_call else self._tracer.start_span("request", _within(call.span))

    def request_ended(self, request: Request, code: str, reason: str, seconds: float) -> None:
        """Say in its span what the request was."""
        span = request.span
        if span is not None:
            span.set_attribute("whylight.model", request.model)
            span.set_attribute("whylight.methods", request.methods)
            span.set_attribute("whylight.inputs", request.inputs)
            if span is not request.call.span:
                _end(span, code, reason)

    def inputs_answered(self, request: Request, results: Sequence[v1.InputResult]) -> None:
        """Make spans of what the worker says of the first inputs, placed by how long each phase took."""
        if request.span is None:
            return
        context = _within(request.span)
        # The worker tells how long, not when: what there is of this request began when its span did.
        arrived = time.time_ns() - round((request.call.clock() - request.began) * 1e9)
        for index, result in enumerate(results[:INPUTS]):
            for name, begin, end, method in _phases(result.explained, arrived):
                span = self._tracer.start_span(
                    name, context, attributes={"whylight.input": index, "whylight.method": method}, start_time=begin
                )
                span.end(end)

    def batch_done(self, report: BatchReport) -> None:
        """Make the span of a batch, if it had inputs of a call that is traced."""
        links = [Link(request.span.get_span_context()) for request in requests_of(report) if request.span is not None]
        if not links:
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            "batch",
            Context(),
            attributes={
                "whylight.model": report.model,
                "whylight.methods": report.methods,
                "whylight.inputs": report.size,
                "whylight.batch.evaluations": report.cost,
                "whylight.batch.fill": report.fill,
                "whylight.batch.reason": report.reason.value,
                "whylight.batch.busy_seconds": report.busy_time,
                "whylight.worker": report.worker,
            },
            links=links,
            start_time=now - round(report.flight_time * 1e9),
        )
        span.end(now)

    def close(self) -> None:
        """Send what was not sent yet, and no more; it may take as long as the exporter's timeout."""
        self._provider.shutdown()

    def _parent(self, metadata: Metadata) -> Context | None:
        """Return the context of a call's span, None when it is not to be traced."""
        headers = {key: value for key, value in metadata if key in _HEADERS and isinstance(value, str)}
        if "traceparent" in headers:
            context = self._propagator.extract(headers, Context())
            told = trace.get_current_span(context).get_span_context()
            if told.is_valid:
                return context if told.trace_flags.sampled else None
        return Context() if random.random() < self._ratio else None


def _within(span: Span) -> Context:
    return trace.set_span_in_context(span, Context())


def _end(span: Span, code: str, reason: str) -> None:
    if code != "OK":
        span.set_attribute("error.type", reason or code)
        if code in FAULTS:
            span.set_status(Status(StatusCode.ERROR, code))
    span.end()


def _phases(explained: v1.Explained, arrived: int) -> Iterator[tuple[str, int, int, str]]:
    """Yield name, begin, end (nanoseconds) and method of each phase. Decoding is done by the end of the queue."""
    if not explained.explanations:
        return
    first = explained.explanations[0]
    now = arrived + first.execution.queue_time.ToNanoseconds()
    yield "queue", arrived, now, ""
    yield "decode", max(arrived, now - first.execution.decode_time.ToNanoseconds()), now, ""
    for method, explanations in groupby(explained.explanations, key=lambda explanation: explanation.method):
        targets = list(explanations)
        began, now = now, now + targets[0].execution.compute_time.ToNanoseconds()  # all targets share it
        yield "compute", began, now, method
    for explanation in explained.explanations:
        began, now = now, now + explanation.execution.render_time.ToNanoseconds()
        yield "render", began, now, explanation.method
