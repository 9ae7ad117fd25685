"""Has workers load and forget versions of models, so that each worker has what it is to have; knows no calls' contents.

A change of a model runs to its end whether or not anybody waits for it; a model has one at a time.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from whylight.engine.model_loads import ModelLoads, load_failed, other_weights
from whylight.engine.model_table import ModelChoice, ModelTable, Served, loading
from whylight.engine.pool import WorkerPool
from whylight.engine.version import Version
from whylight.errors import InternalError, Unavailable, Unsupported, WhylightError
from whylight.v1 import catalog_pb2
from whylight.wire.errors import error_from_proto
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)


class ModelControl:
    """The changes of the models of a table. All methods belong to the event loop of the engine.

    `let_go` is called with a worker and a version before the worker is told to forget it, `holds` when it has one more,
    `switched` when new calls go to another version than before, `outdated` with a version that waiting calls must not
    be answered by, for it is not any more what it was.
    """

    def __init__(
        self,
        table: ModelTable,
        pool: WorkerPool,
        *,
        holds: Callable[[int, Version], None],
        let_go: Callable[[int, Version], None],
        switched: Callable[[], None],
        outdated: Callable[[Version], None],
        load_timeout: float = 600.0,
    ) -> None:
        self.table = table
        self._pool = pool
        self._holds = holds
        self._let_go = let_go
        self._switched = switched
        self._outdated = outdated
        self._loads = ModelLoads(table, pool, load_timeout)
        self._changes: dict[str, asyncio.Task[None]] = {}
        self._mends: set[asyncio.Task[None]] = set()
        self._lacked: set[tuple[int, Version]] = set()
        self._closed: Callable[[], WhylightError] | None = None

    # Changes that an administrator asks for.

    def load(self, choice: ModelChoice) -> asyncio.Task[None]:
        """Begin to load a model that is not loaded, or do nothing; the task ends when that is done.

        Raises:
            Unavailable: something is being done to it already (MODEL_BUSY), or the engine is closing.
        """
        served = self.table.served.get(choice.name)
        if served is not None and served.wanted:
            return self._begin(choice.name, _nothing())
        if served is None:
            served = self.table.served[choice.name] = Served(choice, wanted=False)
        return self._begin(choice.name, self._take_over(served, choice))

    def reload(self, choice: ModelChoice) -> asyncio.Task[None]:
        """Begin to put a new version in the place of the one that answers.

        Raises:
            NotFound: there is no such model.
            Unsupported: it is not loaded (MODEL_NOT_LOADED).
            Unavailable: it is still being loaded (MODEL_LOADING), or as `load`.
        """
        served = self.table.find(choice.name)
        if served.wanted and not served.generation:
            raise loading(choice.name)
        if not served.wanted:
            raise Unsupported(
                f"the model {choice.name!r} is not loaded: there is no version to take the place of",
                reason="MODEL_NOT_LOADED",
                field="name",
            )
        return self._begin(choice.name, self._take_over(served, choice))

    def unload(self, name: str) -> asyncio.Task[None]:
        """Begin to unload a model: no new calls, then those at work end, then it is freed. Or do nothing.

        Raises:
            NotFound: there is no such model.
            Unavailable: as `load`.
        """
        served = self.table.find(name)
        return self._begin(name, self._unload(served) if served.wanted else _nothing())

    # What the workers tell.

    def worker_up(self, worker: int, device: str, models: Mapping[Version, catalog_pb2.Model]) -> list[Version]:
        """Take in a worker with what it has, ask it for what it lacks, and return what of it may be used."""
        self.table.devices[worker] = device
        held = self.table.held[worker] = dict(models)
        strange = []
        for version, model in models.items():
            served = self.table.served.get(version.model)
            if served is None:
                served = self.table.served[version.model] = Served(_as_it_came(model, worker), wanted=True)
            if not served.generation and served.wanted:
                self._serve(served, version.generation, model)
            elif served.needs(version.generation) and not _is_other(served, version, model):
                continue
            elif not served.choice.fields and self.table.holders(version) == [worker]:
                self._outdated(version)
                self._serve(served, version.generation, model)
            else:
                strange.append(version)
        for version in strange:
            del held[version]
            self._send_unload(worker, version)
        self._mend(worker)
        self.table.notify()
        return list(held)

    def worker_down(self, worker: int, error: Callable[[], WhylightError]) -> None:
        """Take in that a worker was lost, with all that it had."""
        self.table.held.pop(worker, None)
        self._loads.worker_down(worker, error)
        self.table.notify()

    def loaded(self, worker: int, reply: worker_pb2.ModelLoaded) -> None:
        """Take in what became of a load."""
        version = Version(reply.name, reply.generation)
        if reply.HasField("error"):
            self._loads.end(worker, version, error_from_proto(reply.error))
            return
        served = self.table.served.get(reply.name)
        if (worker, version) not in self.table.loads or served is None or not served.needs(version.generation):
            self._send_unload(worker, version)  # it came too late: nobody waits for it any more
            self._loads.end(worker, version, Unavailable("nobody waits for this version any more"))
            return
        if _is_other(served, version, reply.model):
            self._send_unload(worker, version)
            self._loads.end(worker, version, other_weights(version.model))
            return
        self.table.held[worker][version] = reply.model
        self._holds(worker, version)
        self._loads.end(worker, version, reply.model)
        self.table.notify()

    def unloaded(self, worker: int, reply: worker_pb2.ModelUnloaded) -> None:
        """Take in that a worker has forgotten a version."""
        self.table.held.get(worker, {}).pop(Version(reply.name, reply.generation), None)
        self.table.notify()

    def closed_error(self) -> WhylightError:
        """Return what those are told whose change was ended by the end of the server."""
        return self._closed() if self._closed else Unavailable("the change was ended")

    def close(self, error: Callable[[], WhylightError]) -> None:
        """End every change: the workers are gone, or will be."""
        self._closed = error
        self._loads.close(error)
        for task in (*self._changes.values(), *self._mends):
            task.cancel()

    # How changes are made.

    def _begin(self, name: str, change: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        problem: WhylightError | None = None
        if self._closed is not None:
            problem = self._closed()
        elif name in self._changes:
            problem = Unavailable(
                f"something is being done to the model {name!r} already", reason="MODEL_BUSY", retry_after=1.0
            )
        if problem is not None:
            change.close()
            raise problem
        task = asyncio.ensure_future(change)
        self._changes[name] = task
        task.add_done_callback(lambda _: self._ended(name, task))
        return task

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        del self._changes[name]
        error = None if task.cancelled() else task.exception()  # retrieved here, for the caller may have gone away
        if error is not None:
            expected = isinstance(error, WhylightError)
            _log.error("a change of the model %r failed: %s", name, error, exc_info=None if expected else error)
        if not self._closed:
            self.table.notify()

    async def _take_over(self, served: Served, choice: ModelChoice) -> None:
        """Load a new version at all workers that are to have it, send new calls there, and free what was before."""
        served.last_generation += 1
        version = Version(choice.name, served.last_generation)
        served.next_generation = version.generation
        served.error = None
        self.table.notify()
        try:
            model = await self._loads.everywhere(version, choice)
        except Exception as error:
            served.error = error if isinstance(error, WhylightError) else InternalError("see the log")
            served.next_generation = 0
            self._forget(version)
            raise
        served.next_generation = 0
        before = {one for held in self.table.held.values() for one in held if one.model == choice.name}
        served.choice = choice
        served.wanted = True
        self._serve(served, version.generation, model)
        self._configure()
        self._switched()
        for worker in list(self.table.held):
            self._mend(worker)
        self.table.notify()
        for old in sorted(before - {version}):
            await self._retire(served, old)

    def _serve(self, served: Served, generation: int, model: catalog_pb2.Model) -> None:
        """Send new calls to a version."""
        known = served.models[generation] = catalog_pb2.Model()
        known.CopyFrom(model)
        known.generation = generation
        served.generation = generation
        served.models = {one: model for one, model in served.models.items() if served.needs(one)}
        served.last_generation = max(served.last_generation, generation)
        served.ready_time = Timestamp()
        served.ready_time.GetCurrentTime()
        served.error = None
        _log.info("version %d of %s answers, digest %s", generation, served.choice.name, model.digest)

    async def _unload(self, served: Served) -> None:
        served.unloading = True
        served.wanted = False
        served.error = None
        self._configure()
        self._switched()
        self.table.notify()
        try:
            held = {one for held in self.table.held.values() for one in held if one.model == served.choice.name}
            for version in sorted(held):
                await self._retire(served, version)
        finally:
            served.unloading = False

    async def _retire(self, served: Served, version: Version) -> None:
        """Wait until nothing is at work on a version any more, and have it freed."""
        while served.calls[version.generation]:
            await self.table.changed.wait()
        self._forget(version)
        while self.table.holders(version):
            await self.table.changed.wait()
        _log.info("version %d of %s is freed", version.generation, version.model)

    def _forget(self, version: Version) -> None:
        for worker in self.table.holders(version):
            self._send_unload(worker, version)

    def _send_unload(self, worker: int, version: Version) -> None:
        self._let_go(worker, version)
        unload = worker_pb2.UnloadModel(name=version.model, generation=version.generation)
        self._pool.send(worker, worker_pb2.FrontEndFrame(unload=unload))

    def _configure(self) -> None:
        """Tell the pool what a worker that it starts again is to load."""
        if any(served.wanted and not served.choice.fields for served in self.table.served.values()):
            return  # they came with the workers, and what they are made of only the pool knows
        for worker in range(self._pool.size):
            self._pool.configure(
                worker,
                [
                    (served.generation, served.choice.fields)
                    for served in self.table.served.values()
                    if served.wanted and worker in served.choice.workers
                ],
            )

    # How a worker that came late gets what it lacks.

    def _mend(self, worker: int) -> None:
        """Begin to load what a worker is to have and has not."""
        held = self.table.held[worker]
        for name, served in self.table.served.items():
            lacks = served.wanted and served.generation and served.version not in held and not served.unloading
            if not lacks or worker not in served.choice.workers or not served.choice.fields:
                continue
            lacked = worker, served.version
            if lacked in self.table.loads or lacked in self._lacked or self._closed is not None:
                continue
            if self.table.holders(served.version) or name in self._changes:
                self._lacked.add(lacked)  # the load begins when the task does, and others may look before that
                task = asyncio.ensure_future(self._mend_at(worker, served, served.version))
                task.add_done_callback(functools.partial(lambda key, _: self._lacked.discard(key), lacked))
            else:
                # Nobody has what answered until now, and the file may hold other weights: a version of its own.
                _log.error("no worker has version %d of %s any more; it is loaded anew", served.generation, name)
                task = self._begin(name, self._take_over(served, served.choice))
            self._mends.add(task)
            task.add_done_callback(self._mends.discard)

    async def _mend_at(self, worker: int, served: Served, version: Version) -> None:
        try:
            await self._loads.at(worker, version, served.choice.fields)
        except WhylightError as error:
            if served.wanted and served.version == version:  # else it was unloaded or reloaded: nobody misses it
                served.error = load_failed(version.model, worker, error)
                _log.error("%s", served.error)
        else:
            served.error = None
        self.table.notify()


async def _nothing() -> None:
    """Do nothing: it is as it was asked to be."""


def _is_other(served: Served, version: Version, model: catalog_pb2.Model) -> bool:
    """Whether a version is not what calls know by its number: a file of weights may have been written over."""
    known = served.models.get(version.generation)
    return known is not None and known.digest != model.digest


def _as_it_came(model: catalog_pb2.Model, worker: int) -> ModelChoice:
    """Return the choice of a model that nobody told of; without fields, so that no other worker is asked to load it."""
    return ModelChoice(model.name, model.source, {}, (worker,))
