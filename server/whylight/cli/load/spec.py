"""What a load is, as data that travels to client processes as JSON; sends nothing."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of call: its name in the report, its share of all calls, and its requests, taken in turns.

    `requests` are serialised ExplainRequests, made once, so that a client process does nothing but send.
    """

    name: str
    weight: float
    requests: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True)
class Load:
    """What to send, how, and for how long. Times in seconds.

    With a `rate`, calls arrive in an open loop: at random times, `rate` a second on average, whatever the server does
    (a Poisson process drawn from `seed`). Without, in a closed loop: `concurrency` callers, each of which sends its
    next call when it has the answer to the last one. It ends after `calls` of them, or after `duration`. What begins in
    the first `settle` seconds is sent, and not counted; `warm_up` calls are sent before, in a closed loop.

    `connection` holds the keywords of `whylight.cli.parameters.connection_settings`, credentials as a dictionary: paths
    of files, not what is in them. Each process opens `connections` channels, or with `stream` as many open calls.
    `deadline` is that of each call, from when it is sent.
    """

    connection: dict[str, Any]
    kinds: tuple[Kind, ...]
    rate: float | None = None
    concurrency: int = 16
    calls: int | None = None
    duration: float | None = None
    settle: float = 0.0
    warm_up: int = 0
    deadline: float = 60.0
    connections: int = 1
    stream: bool = False
    processes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.calls is None) == (self.duration is None):
            raise ValueError("a load ends after a number of calls, or after a time: give one of the two")
        if self.rate is not None and self.duration is None:
            raise ValueError("a load with a rate goes on for a time")
        if not self.kinds or any(kind.weight <= 0 or not kind.requests for kind in self.kinds):
            raise ValueError("a load has kinds of calls, each with a share above 0 and something to send")

    @property
    def server(self) -> str:
        """The address."""
        return str(self.connection["server"])

    @property
    def weights(self) -> tuple[float, ...]:
        """The share of each kind, not normalised."""
        return tuple(kind.weight for kind in self.kinds)

    def part(self, index: int) -> Load:
        """Return what client process `index` of all `processes` does: its part of the calls, its own chance."""
        return replace(
            self,
            rate=None if self.rate is None else self.rate / self.processes,
            concurrency=max(1, _share(self.concurrency, index, self.processes)),
            calls=None if self.calls is None else _share(self.calls, index, self.processes),
            warm_up=_share(self.warm_up, index, self.processes),
            processes=1,
            seed=self.seed * self.processes + index,
        )

    def to_json(self) -> str:
        """Return one line of JSON that `from_json` reads."""
        plain = asdict(self)
        for kind in plain["kinds"]:
            kind["requests"] = [base64.b64encode(request).decode() for request in kind["requests"]]
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Load:
        """Read a load."""
        plain = json.loads(text)
        kinds = tuple(
            Kind(kind["name"], kind["weight"], tuple(base64.b64decode(request) for request in kind["requests"]))
            for kind in plain.pop("kinds")
        )
        return cls(kinds=kinds, **plain)


def read_mix(text: str) -> list[tuple[tuple[str, ...], float]]:
    """Read shares of methods such as ``grad-cam=3,occlusion=1``; ``a+b=2`` is calls that ask for both.

    Raises:
        ValueError: a share is no number above 0, or a method has no name.
    """
    mix = []
    for part in text.split(","):
        names, equals, weight = part.partition("=")
        methods = tuple(name.strip() for name in names.split("+"))
        share = float(weight) if equals else 1.0
        if not all(methods) or not 0 < share < float("inf"):
            raise ValueError(f"{part!r} is not METHOD=SHARE")
        mix.append((methods, share))
    return mix


def _share(whole: int, index: int, parts: int) -> int:
    return whole // parts + (index < whole % parts)


def processes_for(asked: int, concurrency: int, calls: int | None) -> int:
    """Return how many of `asked` processes have something to do."""
    return max(1, min(asked, concurrency, *([calls] if calls is not None else [])))
