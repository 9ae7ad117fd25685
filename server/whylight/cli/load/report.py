"""What was measured of a load, in the figures that people ask for; draws and prints nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whylight.cli.load.spec import Load
from whylight.cli.load.tally import Tally

SHARES = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9))


@dataclass(frozen=True)
class Report:
    """A load, when it began on the monotonic clock, and what all processes counted of it."""

    load: Load
    begin: float
    tally: Tally

    @property
    def succeeded(self) -> int:
        """Number of calls that were answered."""
        return len(self.latencies())

    def latencies(self, kind: int | None = None) -> list[float]:
        """Return the seconds of the calls that were answered, of one kind or of all."""
        tally = self.tally
        return [
            latency
            for latency, failure, of in zip(tally.latency, tally.failure, tally.kind, strict=True)
            if failure < 0 and kind in (None, of)
        ]

    @property
    def seconds(self) -> float:
        """From when counting began to the end of the last call that was counted."""
        tally = self.tally
        if not tally.due:
            return 0.0
        began = self.begin + self.load.settle if self.load.duration is not None else min(tally.due)
        return max(due + latency for due, latency in zip(tally.due, tally.latency, strict=True)) - began

    @property
    def throughput(self) -> float:
        """Answers per second; see `as_json`."""
        if self.load.duration is None:
            return self.succeeded / self.seconds if self.seconds else 0.0
        counted_from = self.begin + self.load.settle
        until = counted_from + self.load.duration
        return sum(counted_from <= end < until for end in self.tally.ends) / self.load.duration

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values; times in seconds.

        `throughput` is calls that were answered, per second: of a number of calls, from the first to the end of the
        last; of a time, those that ended in it, so that neither its beginning nor what is still open tells.
        `lag` is how much later than due the clients sent: where it is not small beside the latencies, the clients are
        what is measured. `processor_ms_per_call` is the clients' own.
        """
        load, tally, seconds = self.load, self.tally, self.seconds
        counted = len(tally.due)
        sizes = Counter(tally.batch_sizes)
        return {
            "server": load.server,
            "loop": "closed" if load.rate is None else "open",
            "mode": "stream" if load.stream else "unary",
            "rate": load.rate,
            "concurrency": load.concurrency if load.rate is None else None,
            "processes": load.processes,
            "connections": load.processes * load.connections,
            "calls": counted,
            "succeeded": self.succeeded,
            "seconds": seconds,
            "throughput": self.throughput,
            "latency": summary(self.latencies()),
            "lag": summary(tally.lag),
            "queue_time": summary(tally.queue_times),
            "compute_time": summary(tally.compute_times),
            "mean_batch_size": sum(tally.batch_sizes) / len(tally.batch_sizes) if tally.batch_sizes else 0.0,
            "batch_sizes": dict(sorted(sizes.items())),
            "errors": {name: failure["count"] for name, failure in self._failures().items()},
            "failures": self._failures(),
            "kinds": self._kinds(),
            "sent": tally.sent,
            "unanswered": tally.sent - tally.ended,
            "answered_twice": tally.twice,
            "processor_ms_per_call": tally.processor_seconds * 1e3 / tally.sent if tally.sent else 0.0,
        }

    def _failures(self) -> dict[str, dict[str, Any]]:
        """Return by code and reason how often calls failed, how soon, and how many were told when to come again."""
        tally = self.tally
        found: dict[str, dict[str, Any]] = {}
        for place, name in enumerate(tally.failures):
            rows = [row for row, failure in enumerate(tally.failure) if failure == place]
            found[name] = {
                "count": len(rows),
                "with_retry_after": sum(tally.retry_after[row] >= 0 for row in rows),
                "latency": summary([tally.latency[row] for row in rows]),
                "latency_from_sending": summary([tally.latency[row] - tally.lag[row] for row in rows]),
            }
        return dict(sorted(found.items(), key=lambda item: int(item[1]["count"]), reverse=True))

    def _kinds(self) -> dict[str, dict[str, Any]]:
        count = Counter(self.tally.kind)
        return {
            kind.name: {"calls": count[index], "latency": summary(self.latencies(index))}
            for index, kind in enumerate(self.load.kinds)
        }


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return mean, percentiles (nearest rank, of all values: nothing is rounded to bins) and maximum; or nothing."""
    if not times:
        return {}
    ordered = sorted(times)
    return {
        "mean": sum(ordered) / len(ordered),
        **{name: percentile(ordered, share) for name, share in SHARES},
        "max": ordered[-1],
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value of sorted values that `share` per cent of them do not exceed: the nearest rank."""
    rank = -(-round(share * 10) * len(ordered) // 1000)
    return ordered[max(rank, 1) - 1]
