"""Workers as processes of this machine, started, watched and started again; knows no work."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from whylight.engine.local_worker import LocalWorker
from whylight.engine.pool import PoolListener, WorkerStartError
from whylight.worker.config import WorkerConfig
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

MEASURED = 256
"""How many measurements of models are kept for workers that are started again, the last ones."""


@dataclass(frozen=True)
class Backoff:
    """How long is between two starts of a worker at least, in seconds: twice as long each time, up to `most`.

    The time that a worker was up counts: one that was lost after longer than that is started again at once. One that
    was up for `stable` seconds counts as sound: the next pause is the first again.
    """

    first: float = 0.5
    most: float = 30.0
    stable: float = 60.0

    def delay(self, failures: int, up: float = 0.0) -> float:
        """Return the wait after so many failures in a row, at least one, the last of a worker that was `up`."""
        return max(0.0, min(self.first * 2.0 ** min(failures - 1, 32), self.most) - up)


class LocalPool:
    """One process for each config.

    The first start of every worker has to succeed, for what keeps it from starting is a mistake in the configuration.
    From then on a worker that ends is started again, for ever, with growing pauses, and is told what was measured
    before.
    """

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        *,
        command: Sequence[str] = (sys.executable, "-m", "whylight.worker"),
        start_timeout: float = 600.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._configs = list(configs)
        self._command = tuple(command)
        self._start_timeout = start_timeout
        self._backoff = backoff or Backoff()
        self._up: dict[int, LocalWorker] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._measured: dict[str, str] = {}
        self._stopping = False

    @property
    def size(self) -> int:
        """How many workers there are, up or down."""
        return len(self._configs)

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of the workers that are up, by their numbers."""
        return {number: worker.pid for number, worker in self._up.items()}

    async def start(self, listener: PoolListener) -> None:
        """Start all workers and return when all are up.

        Raises:
            WorkerStartError: a worker could not start; none is left running.
        """
        first_starts: list[asyncio.Future[None]] = []
        for number in range(self.size):
            first_start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            first_starts.append(first_start)
            self._tasks[number] = asyncio.ensure_future(self._keep_up(number, listener, first_start))
        try:
            await asyncio.gather(*first_starts)
        except BaseException:
            await self.stop(0.0)
            for first_start in first_starts:
                if not first_start.cancel() and not first_start.cancelled():
                    first_start.exception()  # Only the first failure is raised; the others are in the log.
            raise

    def send(self, worker: int, frame: worker_pb2.FrontEndFrame) -> None:
        """Send a frame without waiting; to a worker that is not up it goes nowhere."""
        if worker in self._up:
            self._up[worker].send(frame)

    def configure(self, worker: int, models: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Set what a worker loads when it is started again: generations, and the fields of their ModelConfigs."""
        self._configs[worker] = self._configs[worker].model_copy(
            update={
                "models": tuple(dict(fields) for _, fields in models),
                "generations": {fields["name"]: generation for generation, fields in models},
            }
        )

    def kill(self, worker: int) -> None:
        """Kill a worker; it is started again."""
        if worker in self._up:
            self._up[worker].kill()

    async def stop(self, grace: float) -> None:
        """Let every worker finish what it has and exit, and kill those that need more than `grace` seconds."""
        self._stopping = True
        for worker in self._up.values():
            worker.send(worker_pb2.FrontEndFrame(drain=worker_pb2.Drain()))
        finishing = [task for number, task in self._tasks.items() if number in self._up]
        if finishing and grace > 0:
            await asyncio.wait(finishing, timeout=grace)
        for number, task in self._tasks.items():
            if number in self._up and not task.done():
                _log.warning("worker %d is killed: it did not finish within %g seconds", number, grace)
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    async def _keep_up(self, number: int, listener: PoolListener, first_start: asyncio.Future[None]) -> None:
        now = asyncio.get_running_loop().time
        name = f"worker {number}"
        failures = 0
        load_time = 0.0
        while True:
            begin = now()
            up = 0.0
            config = self._configs[number].model_copy(update={"measured": dict(self._measured)})
            try:
                async with LocalWorker.running(name, self._command, config) as worker:
                    ready = await worker.ready(self._start_timeout)
                    up_since = now()
                    load_time = up_since - begin
                    await self._attend(number, worker, ready, listener, first_start)
                    if self._stopping:
                        await worker.wait()
                        return
                    up = now() - up_since
                    failures = 1 if up >= self._backoff.stable else failures + 1
                    listener.worker_down(number, self._backoff.delay(failures, up) + load_time)
                    _log.error(await worker.end())
            except Exception as error:  # Whatever it is: a worker that nobody starts again is the end of the server.
                if not first_start.done():
                    first_start.set_exception(WorkerStartError(str(error)))
                    return
                expected = isinstance(error, WorkerStartError | OSError)
                _log.error("%s could not be started again: %s", name, error, exc_info=not expected)
                failures += 1
                listener.worker_down(number, self._backoff.delay(failures) + load_time)
            await asyncio.sleep(self._backoff.delay(failures, up))

    async def _attend(
        self,
        number: int,
        worker: LocalWorker,
        ready: worker_pb2.Ready,
        listener: PoolListener,
        first_start: asyncio.Future[None],
    ) -> None:
        """Count a worker as up until it closes its end."""
        self._up[number] = worker
        self._remember(ready.measured)
        try:
            listener.worker_up(number, ready)
            if not first_start.done():
                first_start.set_result(None)
            await worker.listen(partial(self._hear, number, listener))
        finally:
            del self._up[number]

    def _hear(self, number: int, listener: PoolListener, frame: worker_pb2.WorkerFrame) -> None:
        if frame.HasField("loaded"):
            self._remember(frame.loaded.measured)
        listener.worker_said(number, frame)

    def _remember(self, measured: Mapping[str, str]) -> None:
        """Keep what a worker measured for those that are started after it."""
        for fingerprint, measurement in measured.items():
            self._measured.pop(fingerprint, None)
            self._measured[fingerprint] = measurement
        while len(self._measured) > MEASURED:
            del self._measured[next(iter(self._measured))]
