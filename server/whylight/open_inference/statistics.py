"""Counts what came of the requests of this protocol, for each model and method; knows no other way in, and no exporter.

Whoever wants numbers of all calls, and histograms, asks Prometheus; these are for clients of Triton.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from whylight.open_inference.messages import ModelStatistics, StatisticDuration
from whylight.open_inference.names import Asked
from whylight.v1 import explanation_pb2 as v1


@dataclass
class _Time:
    """How often something was done, and how long all of it took, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass
class _Batches:
    """Of inputs that shared batches of one size: what each part took."""

    compute_input: _Time = field(default_factory=_Time)
    compute_infer: _Time = field(default_factory=_Time)
    compute_output: _Time = field(default_factory=_Time)


@dataclass
class _Counts:
    success: _Time = field(default_factory=_Time)
    fail: _Time = field(default_factory=_Time)
    queue: _Time = field(default_factory=_Time)
    last_ms: int = 0
    batches: defaultdict[int, _Batches] = field(default_factory=lambda: defaultdict(_Batches))


class Statistics:
    """What came of requests since the server started. `now_ms` is the time since 1970."""

    def __init__(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._now_ms = now_ms
        self._counts: defaultdict[str, _Counts] = defaultdict(_Counts)

    def answered(self, asked: Asked, response: v1.ExplainResponse, ns: int) -> None:
        """Count a request that was answered within `ns`. Answers that were kept from equal ones were not worked on."""
        counts = self._counts[asked.name]
        counts.success.add(ns)
        counts.last_ms = self._now_ms()
        for execution in _executions(response):
            counts.queue.add(execution.queue_time.ToNanoseconds())
            batch = counts.batches[max(execution.batch_size, 1)]
            batch.compute_input.add(execution.decode_time.ToNanoseconds())
            batch.compute_infer.add(execution.compute_time.ToNanoseconds())
            batch.compute_output.add(execution.render_time.ToNanoseconds())

    def failed(self, asked: Asked, ns: int) -> None:
        """Count a request that failed after `ns`."""
        self._counts[asked.name].fail.add(ns)

    def of(self, asked: Asked) -> ModelStatistics:
        """Return what was counted."""
        counts = self._counts.get(asked.name) or _Counts()
        found = ModelStatistics(name=asked.name, version=asked.version, last_inference=counts.last_ms)
        stats = found.inference_stats
        for name in ("success", "fail", "queue"):
            _put(getattr(stats, name), getattr(counts, name))
        executions = 0.0
        for size, batch in sorted(counts.batches.items()):
            found.inference_count += batch.compute_infer.count
            executions += batch.compute_infer.count / size
            of_size = found.batch_stats.add(batch_size=size)
            for name in ("compute_input", "compute_infer", "compute_output"):
                _put(getattr(stats, name), getattr(batch, name))
                _put(getattr(of_size, name), getattr(batch, name))
        found.execution_count = round(executions)
        return found


def _executions(response: v1.ExplainResponse) -> Iterator[v1.Execution]:
    for result in response.results:
        execution = v1.Execution()
        for explanation in result.explained.explanations:  # its targets share all but the drawing
            drawn = execution.render_time.ToNanoseconds() + explanation.execution.render_time.ToNanoseconds()
            execution.CopyFrom(explanation.execution)
            execution.render_time.FromNanoseconds(drawn)
        if not execution.cached:
            yield execution


def _put(message: StatisticDuration, time: _Time) -> None:
    """Add a count and a time to those of a message."""
    message.count += time.count
    message.ns += time.ns
