"""A closed loop of calls to a server, and what was measured of it; prints nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whylight.client import AsyncClient, Request
from whylight.errors import WhylightError
from whylight.explanation import Explained


@dataclass
class Report:
    """What was measured. Times in seconds, one for each call that succeeded."""

    server: str
    concurrency: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    queue_times: list[float] = field(default_factory=list)
    compute_times: list[float] = field(default_factory=list)
    batch_sizes: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def succeeded(self) -> int:
        """Number of calls that were answered."""
        return len(self.latencies)

    def add(self, latency: float, explained: Explained) -> None:
        """Count a call that was answered."""
        self.latencies.append(latency)
        for explanation in explained.explanations:
            self.batch_sizes[explanation.execution.batch_size] += 1
            self.queue_times.append(explanation.execution.queue_time)
            self.compute_times.append(explanation.execution.compute_time)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        executions = self.batch_sizes.total()
        weighted = sum(size * count for size, count in self.batch_sizes.items())
        return {
            "server": self.server,
            "concurrency": self.concurrency,
            "calls": self.succeeded + self.errors.total(),
            "succeeded": self.succeeded,
            "seconds": self.seconds,
            "throughput": self.succeeded / self.seconds if self.seconds else 0.0,
            "latency": summary(self.latencies),
            "queue_time": summary(self.queue_times),
            "compute_time": summary(self.compute_times),
            "mean_batch_size": weighted / executions if executions else 0.0,
            "batch_sizes": dict(sorted(self.batch_sizes.items())),
            "errors": dict(self.errors.most_common()),
        }


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return mean, median, 90th and 99th percentile (nearest rank) and maximum; nothing for no times."""
    if not times:
        return {}
    ordered = sorted(times)
    ranks = {name: -(-share * len(ordered) // 100) - 1 for name, share in (("p50", 50), ("p90", 90), ("p99", 99))}
    return {
        "mean": sum(ordered) / len(ordered),
        **{name: ordered[rank] for name, rank in ranks.items()},
        "max": ordered[-1],
    }


async def closed_loop(
    server: str,
    settings: Mapping[str, Any],
    request: Request,
    *,
    concurrency: int,
    calls: int,
    warm_up: int,
    deadline: float,
    on_call: Callable[[], object],
) -> Report:
    """Send `request` `calls` times, `concurrency` at a time, after `warm_up` calls that are not counted.

    Raises:
        WhylightError: the server is not ready within `deadline` seconds.
    """
    report = Report(server, concurrency)
    options = {"grpc.enable_retries": 0}
    async with AsyncClient(server, deadline=deadline, options=options, **settings) as client:
        await client.wait_ready(deadline)
        await _together(client, request, Report(server, concurrency), concurrency, warm_up, lambda: None)
        begin = time.perf_counter()
        await _together(client, request, report, concurrency, calls, on_call)
        report.seconds = time.perf_counter() - begin
    return report


async def _together(
    client: AsyncClient, request: Request, report: Report, concurrency: int, calls: int, on_call: Callable[[], object]
) -> None:
    numbers = itertools.count()

    async def caller() -> None:
        while next(numbers) < calls:
            begin = time.perf_counter()
            try:
                explained = await _call(client, request)
            except WhylightError as error:
                report.errors[f"{error.code.name} {error.reason}"] += 1
            else:
                report.add(time.perf_counter() - begin, explained)
            on_call()

    await asyncio.gather(*(caller() for _ in range(min(concurrency, calls))))


async def _call(client: AsyncClient, request: Request) -> Explained:
    image: Any = request.images  # one: the bytes of a file
    explained: Explained = await client.explain(
        image,
        request.method,
        model=request.model,
        target=request.target,
        options=request.options,
        outputs=request.outputs,
        top_predictions=request.top_predictions,
    )
    return explained
