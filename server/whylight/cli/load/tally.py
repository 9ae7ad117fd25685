"""What one client process counts of its calls, as columns that travel as JSON; measures nothing by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Execution:
    """How the server says that it did one explanation; times in seconds."""

    batch_size: int
    queue_time: float
    compute_time: float


@dataclass(frozen=True)
class Outcome:
    """What came of one call: `failure` is code and reason, empty when it was answered.

    `retry_after` says when the server wants it tried again, in seconds.
    """

    failure: str = ""
    retry_after: float | None = None
    executions: Sequence[Execution] = ()


@dataclass
class Tally:
    """The calls that were counted, one entry of each column for each, and the explanations that the answers held.

    `due` is when a call was to be sent, `lag` how much later it was, `latency` how long after `due` its end came:
    a client that falls behind thus lengthens latencies in place of hiding them (no coordinated omission). Times are on
    this machine's monotonic clock. `failure` is an index into `failures`, -1 for an answer; `retry_after` is -1 where
    the server said nothing. `sent` and `ended` count all calls, those not counted above too; `twice` answers that
    nobody waited for, since there had been one. `ends` are those of all calls of the load that were answered, counted
    or not: what ends within some time is what a server can do in it.
    """

    due: list[float] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    failure: list[int] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)
    queue_times: list[float] = field(default_factory=list)
    compute_times: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    sent: int = 0
    ended: int = 0
    twice: int = 0
    processor_seconds: float = 0.0

    def add(self, kind: int, due: float, sent: float, end: float, outcome: Outcome) -> None:
        """Count a call."""
        self.due.append(due)
        self.lag.append(sent - due)
        self.latency.append(end - due)
        self.kind.append(kind)
        if outcome.failure and outcome.failure not in self.failures:
            self.failures.append(outcome.failure)
        self.failure.append(self.failures.index(outcome.failure) if outcome.failure else -1)
        self.retry_after.append(-1.0 if outcome.retry_after is None else outcome.retry_after)
        for execution in outcome.executions:
            self.batch_sizes.append(execution.batch_size)
            self.queue_times.append(execution.queue_time)
            self.compute_times.append(execution.compute_time)

    def to_json(self) -> str:
        """Return one line of JSON that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Tally:
        """Read a tally."""
        return cls(**json.loads(text))


def together(tallies: Sequence[Tally]) -> Tally:
    """Return the tallies of several processes as one."""
    whole = Tally()
    for tally in tallies:
        for failure in tally.failures:
            if failure not in whole.failures:
                whole.failures.append(failure)
        places = [whole.failures.index(failure) for failure in tally.failures]
        whole.failure += [place if place < 0 else places[place] for place in tally.failure]
        for name in (
            "due",
            "lag",
            "latency",
            "kind",
            "retry_after",
            "batch_sizes",
            "queue_times",
            "compute_times",
            "ends",
        ):
            getattr(whole, name).extend(getattr(tally, name))
        whole.sent += tally.sent
        whole.ended += tally.ended
        whole.twice += tally.twice
        whole.processor_seconds += tally.processor_seconds
    return whole
