"""The loads that workers are asked for, until each has ended in one way; knows not what the versions are for."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from whylight.engine.model_table import ModelChoice, ModelTable
from whylight.engine.pool import WorkerPool
from whylight.engine.version import Version
from whylight.errors import Unavailable, Unsupported, WhylightError
from whylight.v1 import catalog_pb2
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

LATE_LOAD_RETRY_SECONDS = 30.0
"""When an administrator should come again whose load took too long: a worker goes on with it, and then forgets it."""


class ModelLoads:
    """The loads that go on, which the table has too. All methods belong to the event loop of the engine."""

    def __init__(self, table: ModelTable, pool: WorkerPool, timeout: float) -> None:
        """Ask the workers of `pool`; a load that takes longer than `timeout` seconds has failed."""
        self._table = table
        self._pool = pool
        self._timeout = timeout

    async def everywhere(self, version: Version, choice: ModelChoice) -> catalog_pb2.Model:
        """Have every worker that is up, and that is to have a model, load a version; return what they say of it.

        Raises:
            Unsupported: one could not, or they do not say the same (MODEL_LOAD_FAILED).
            Unavailable: none is up, or one was lost (WORKER_LOST) or took too long (LOAD_TIMEOUT).
        """
        workers = [worker for worker in choice.workers if worker in self._table.held]
        if not workers:
            raise Unavailable(
                f"no worker that is to have the model {version.model!r} is up", reason="WORKER_LOST", retry_after=5.0
            )
        outcomes = await asyncio.gather(
            *(self.at(worker, version, choice.fields) for worker in workers), return_exceptions=True
        )
        models = []
        for worker, outcome in zip(workers, outcomes, strict=True):
            if isinstance(outcome, WhylightError):
                raise load_failed(version.model, worker, outcome)
            if isinstance(outcome, BaseException):
                raise outcome
            models.append(outcome)
        if len({model.digest for model in models}) > 1:
            raise load_failed(version.model, workers[0], other_weights(version.model))
        return models[0]

    async def at(self, worker: int, version: Version, fields: Mapping[str, Any]) -> catalog_pb2.Model:
        """Have a worker load a version.

        Raises:
            WhylightError: it could not, or it was lost, or it took too long.
        """
        future = self._table.loads[worker, version] = asyncio.get_running_loop().create_future()
        load = worker_pb2.LoadModel(name=version.model, generation=version.generation, config=json.dumps(dict(fields)))
        _log.info("worker %d loads version %d of %s", worker, version.generation, version.model)
        self._pool.send(worker, worker_pb2.FrontEndFrame(load=load))
        try:
            return await asyncio.wait_for(future, self._timeout)
        except asyncio.TimeoutError:
            raise Unavailable(
                f"it was not loaded after {self._timeout:g} seconds",
                reason="LOAD_TIMEOUT",
                retry_after=LATE_LOAD_RETRY_SECONDS,
            ) from None
        finally:
            self._table.loads.pop((worker, version), None)

    def end(self, worker: int, version: Version, outcome: catalog_pb2.Model | WhylightError) -> None:
        """Let who waits for a load know what became of it; nothing where nobody does."""
        future = self._table.loads.pop((worker, version), None)
        if future is None or future.done():
            return
        if isinstance(outcome, WhylightError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def worker_down(self, worker: int, error: Callable[[], WhylightError]) -> None:
        """End all loads at a worker that was lost."""
        for loading, version in list(self._table.loads):
            if loading == worker:
                self.end(loading, version, error())

    def close(self, error: Callable[[], WhylightError]) -> None:
        """End all loads."""
        for worker, version in list(self._table.loads):
            self.end(worker, version, error())


def load_failed(name: str, worker: int, error: WhylightError) -> WhylightError:
    """Return what an administrator is told: what will pass stays what it is, and all else is for him to mend."""
    message = f"worker {worker} could not load the model {name!r}: {error.message}"
    metadata = {"model": name, "cause": error.reason}
    if isinstance(error, Unavailable):
        return Unavailable(message, reason=error.reason, retry_after=error.retry_after, metadata=metadata)
    return Unsupported(message, reason="MODEL_LOAD_FAILED", metadata=metadata)


def other_weights(name: str) -> Unsupported:
    """Return what is told where workers have different weights under one name."""
    return Unsupported(
        f"the weights of {name!r} are not those that other workers have: the file was changed; reload the model",
        reason="MODEL_CHANGED",
    )
