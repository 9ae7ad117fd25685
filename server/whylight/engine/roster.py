"""Who holds what: the workers, the batches at each, and who gets the next one; pure, knows no frames and no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field

from whylight.engine.scheduler import FormedBatch, Slot
from whylight.engine.version import Version

OUTSTANDING = 2
"""Batches that a worker holds at most: the one it computes and the one it decodes meanwhile."""

LONG_OUTSTANDING = 4
"""Batches of long work that a worker holds at most; they take turns, a step each, and are no hindrance to others."""

_LEAD = 0.5
"""How much of a batch has to be done, by the measured pace, before a next one that is not full is sent after it. Sent
at once, it would be a batch of the one or two items that came first, and all others would wait behind it."""


@dataclass
class Flight:
    """A batch at a worker. Times in seconds; it starts when those before it are done, long work at once.

    `queue_times` has one for each item, `traces` one for each call that gave one.
    """

    id: int
    worker: int
    formed: FormedBatch
    sent: float
    model: str = ""
    methods: tuple[str, ...] = ()
    queue_times: tuple[float, ...] = ()
    started: float | None = None
    long: bool = False
    traces: tuple[Hashable, ...] = ()


@dataclass
class _Worker:
    heard: float
    versions: set[Version]
    flights: OrderedDict[int, Flight] = field(default_factory=OrderedDict)
    long: dict[int, Flight] = field(default_factory=dict)


class Roster:
    """The workers that are up, and their batches in the order in which they work them off."""

    def __init__(self) -> None:
        self._up: dict[int, _Worker] = {}

    def __len__(self) -> int:
        return len(self._up)

    def __contains__(self, worker: int) -> bool:
        return worker in self._up

    def add(self, worker: int, now: float, versions: Iterable[Version]) -> None:
        """Count a worker in that has these versions of models, with nothing to do."""
        self._up[worker] = _Worker(now, set(versions))

    def hold(self, worker: int, version: Version) -> None:
        """Note that a worker that is up has one more version of a model."""
        self._up[worker].versions.add(version)

    def let_go(self, worker: int, version: Version) -> None:
        """Note that a worker gets no more work on a version of a model."""
        if worker in self._up:
            self._up[worker].versions.discard(version)

    def holders(self, version: Version, others: Collection[Version] = ()) -> list[int]:
        """Return the workers that are up and have this version of a model, and each of the other ones."""
        return [
            number
            for number, worker in self._up.items()
            if version in worker.versions and (not others or worker.versions.issuperset(others))
        ]

    def remove(self, worker: int) -> list[Flight]:
        """Count a worker out and return what it held; nothing for one that was not in."""
        gone = self._up.pop(worker, None)
        return [*gone.flights.values(), *gone.long.values()] if gone else []

    def least_loaded(self, version: Version, others: Collection[Version] = ()) -> int | None:
        """Return which of the holders of these models has the fewest batches, and of those the least cost."""
        return min(self.holders(version, others), key=self._load, default=None)

    def slot(self, now: float, version: Version, others: Collection[Version] = ()) -> Slot | None:
        """Return where the next batch on these models goes, None when all that hold them have enough.

        Of workers with as many batches, those come last whose batch takes longer than it should, for it may hang.
        """
        holders = self.holders(version, others)
        worker = min(holders, key=lambda number: self._load(number, self._overdue(number, now)), default=None)
        if worker is None or len(self._up[worker].flights) >= OUTSTANDING:
            return None
        running = next(iter(self._up[worker].flights.values()), None)
        if running is None or running.started is None or running.formed.expected is None:
            return Slot(worker, due=float("-inf"))
        return Slot(worker, due=running.started + _LEAD * running.formed.expected)

    def long_slot(self, version: Version, others: Collection[Version] = ()) -> Slot | None:
        """Return where the next long work on these models goes, None when all that hold them have enough."""
        holders = self.holders(version, others)
        worker = min(holders, key=lambda number: (len(self._up[number].long), self._load(number)), default=None)
        if worker is None or len(self._up[worker].long) >= LONG_OUTSTANDING:
            return None
        return Slot(worker, due=float("-inf"))

    def send(self, flight: Flight) -> None:
        """Put a batch behind those that its worker has, or long work beside them."""
        worker = self._up[flight.worker]
        if flight.long:
            flight.started = flight.sent
            worker.long[flight.id] = flight
            return
        if not worker.flights:
            flight.started = flight.sent
        worker.flights[flight.id] = flight

    def finish(self, worker: int, batch: int, now: float) -> Flight | None:
        """Take out a batch that is done, so that the next one starts; None for one that the worker does not have."""
        if batch in self._up[worker].long:
            return self._up[worker].long.pop(batch)
        flights = self._up[worker].flights
        flight = flights.pop(batch, None)
        following = next(iter(flights.values()), None)
        if following and following.started is None:
            following.started = now
        return flight

    def hear(self, worker: int, now: float) -> None:
        """Note that a worker gave a sign of life."""
        self._up[worker].heard = now

    def stuck_at(self, patience: float) -> dict[int, float]:
        """Return when each worker with work is to be given up, if it says nothing until then.

        That is `patience` seconds after its last sign of life or the start of its batch, and four times as long as the
        batch should take at the measured pace more. Work gives signs of life as it goes on (at each pass of the model,
        each step, each picture), so that a step may take as long as it likes; what hangs gives none.
        """
        times = {}
        for number, worker in self._up.items():
            running = next(iter(worker.flights.values()), None)
            if running is not None:
                expected = running.formed.expected or 0.0
                times[number] = max(worker.heard, running.started or worker.heard) + patience + 4 * expected
            elif worker.long:
                begun = max(flight.sent for flight in worker.long.values())
                times[number] = max(worker.heard, begun) + patience
        return times

    def _load(self, worker: int, overdue: float = 0.0) -> tuple[int, int, float, float, int]:
        flights, long = self._up[worker].flights, self._up[worker].long
        return len(flights), len(long), overdue, sum(flight.formed.cost for flight in flights.values()), worker

    def _overdue(self, worker: int, now: float) -> float:
        """Return how many seconds longer than it should the batch takes that a worker is at; 0 while it is in time."""
        running = next(iter(self._up[worker].flights.values()), None)
        if running is None or running.started is None or running.formed.expected is None:
            return 0.0
        return max(0.0, now - running.started - running.formed.expected)
