"""Watches the workers of a pool from beside it: when they come up and are lost, and how long models load; starts none.

Nothing is changed of what pool and engine say to each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from whylight.engine.pool import PoolListener, WorkerPool
from whylight.worker.v1 import worker_pb2


class WorkerObserver(Protocol):
    """Who is told. Nothing that it does may block or raise. Times in seconds."""

    def worker_up(self, worker: int, device: str, start_time: float) -> None:
        """Hear that a worker takes work, after so long."""

    def worker_down(self, worker: int) -> None:
        """Hear that a worker was lost, or could not be started again."""

    def device_used(self, worker: int, use: worker_pb2.DeviceUse) -> None:
        """Hear what a worker holds of its device; nothing is heard where the device is the host."""

    def model_loaded(self, worker: int, model: str, load_time: float) -> None:
        """Hear that a worker has loaded a version of a model that it was asked for, after so long."""


class WatchedPool:
    """A pool that tells an observer what its listener hears."""

    def __init__(
        self, pool: WorkerPool, observer: WorkerObserver, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._pool = pool
        self._observer = observer
        self._clock = clock
        self._loads: dict[tuple[int, str, int], float] = {}

    @property
    def size(self) -> int:
        """How many workers there are, up or down."""
        return self._pool.size

    async def start(self, listener: PoolListener) -> None:
        """Start all workers; as the pool itself."""
        await self._pool.start(_Relay(listener, self._observer, self._clock, self._loads))

    def send(self, worker: int, frame: worker_pb2.FrontEndFrame) -> None:
        """Send a frame; as the pool itself."""
        if frame.HasField("load"):
            self._loads[worker, frame.load.name, frame.load.generation] = self._clock()
        self._pool.send(worker, frame)

    def configure(self, worker: int, models: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Set what a worker loads at its next start; as the pool itself."""
        self._pool.configure(worker, models)

    def kill(self, worker: int) -> None:
        """Kill a worker; as the pool itself."""
        self._pool.kill(worker)

    async def stop(self, grace: float) -> None:
        """Stop all workers; as the pool itself."""
        await self._pool.stop(grace)


class _Relay:
    """What the pool talks to, in front of its listener."""

    def __init__(
        self,
        listener: PoolListener,
        observer: WorkerObserver,
        clock: Callable[[], float],
        loads: dict[tuple[int, str, int], float],
    ) -> None:
        self._listener = listener
        self._observer = observer
        self._clock = clock
        self._loads = loads
        self._since: dict[int, float] = {}
        self._began = clock()

    def worker_up(self, worker: int, ready: worker_pb2.Ready) -> None:
        self._observer.worker_up(worker, ready.device, self._clock() - self._since.get(worker, self._began))
        if ready.HasField("device_use"):
            self._observer.device_used(worker, ready.device_use)
        self._listener.worker_up(worker, ready)

    def worker_said(self, worker: int, frame: worker_pb2.WorkerFrame) -> None:
        if frame.HasField("alive") and frame.alive.HasField("device_use"):
            self._observer.device_used(worker, frame.alive.device_use)
        if frame.HasField("loaded"):
            begun = self._loads.pop((worker, frame.loaded.name, frame.loaded.generation), None)
            if begun is not None and frame.loaded.HasField("model"):
                self._observer.model_loaded(worker, frame.loaded.name, self._clock() - begun)
        self._listener.worker_said(worker, frame)

    def worker_down(self, worker: int, retry_after: float) -> None:
        self._since[worker] = self._clock()
        for key in [key for key in self._loads if key[0] == worker]:
            del self._loads[key]
        self._observer.worker_down(worker)
        self._listener.worker_down(worker, retry_after)
