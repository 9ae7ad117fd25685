"""Which models there are, which version of each answers, which worker has what; changes nothing by itself.

A version is one load of a model. New calls go to the current version; a call keeps the version that it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from whylight.engine.reports import tell
from whylight.engine.version import Version
from whylight.errors import NotFound, Unavailable, Unsupported, WhylightError
from whylight.v1 import admin_pb2, catalog_pb2
from whylight.wire.errors import error_to_proto

LOADING_RETRY_SECONDS = 2.0
"""When a client should come again whose model is being loaded."""


@dataclass(frozen=True)
class ModelChoice:
    """A model as the operator wants it: the fields of its ModelConfig, the numbers of the workers that are to have it.

    `load` says whether they do so from the start.
    """

    name: str
    source: str
    fields: Mapping[str, Any]
    workers: tuple[int, ...]
    load: bool = True


@dataclass(eq=False)
class Served:
    """A model, and the version of it that answers.

    `wanted` tells that workers are to have it; `generation` is the current version's, 0 before there was one;
    `next_generation` that of the version that is to take over; `last_generation` the highest one that was given out;
    `models` what is known of versions and `calls` how many are at work on them, by generation; `error` says why the
    last load failed.
    """

    choice: ModelChoice
    wanted: bool
    generation: int = 0
    next_generation: int = 0
    last_generation: int = 0
    ready_time: Timestamp | None = None
    unloading: bool = False
    models: dict[int, catalog_pb2.Model] = field(default_factory=dict)
    calls: Counter[int] = field(default_factory=Counter)
    error: WhylightError | None = None

    @property
    def model(self) -> catalog_pb2.Model | None:
        """What is known of the version that new calls go to; None before there was one."""
        return self.models.get(self.generation)

    @property
    def version(self) -> Version:
        """The version that new calls go to."""
        return Version(self.choice.name, self.generation)

    @property
    def ending_calls(self) -> int:
        """How many calls are at work on versions that take no more."""
        here = 0 if self.unloading else self.calls[self.generation]
        return self.calls.total() - here

    def needs(self, generation: int) -> bool:
        """Whether a version is there for somebody: new calls, calls at work, or as the next one."""
        current = self.wanted and generation == self.generation
        return current or generation == self.next_generation or self.calls[generation] > 0


class ModelTable:
    """All models and all workers. Whoever waits for something here awaits `changed` and looks again."""

    def __init__(self, choices: Iterable[ModelChoice] = ()) -> None:
        self.served = {choice.name: Served(choice, wanted=choice.load) for choice in choices}
        self.held: dict[int, dict[Version, catalog_pb2.Model]] = {}
        self.loads: dict[tuple[int, Version], asyncio.Future[catalog_pb2.Model]] = {}
        self.devices: dict[int, str] = {}
        self.changed = asyncio.Event()
        self.listeners: list[Callable[[ModelTable], None]] = []

    @property
    def started(self) -> bool:
        """Whether every model that is wanted has been ready once."""
        return all(served.generation for served in self.served.values() if served.wanted)

    def notify(self) -> None:
        """Tell everybody that something is not as it was."""
        self.changed.set()
        self.changed = asyncio.Event()
        tell(self.listeners, self)

    def holders(self, version: Version) -> list[int]:
        """Return the workers that are up and have a version."""
        return [worker for worker, held in self.held.items() if version in held]

    def is_lost(self, version: Version) -> bool:
        """Whether no worker has a version, and none will by itself."""
        served = self.served[version.model]
        return not self.holders(version) and (version != served.version or not self._awaited(served))

    def apart(self, *versions: Version) -> bool:
        """Whether no worker has all of these versions, and none will by itself."""
        return not set[int].intersection(*map(self._places, versions))

    def check_together(self, version: Version, others: Iterable[Version]) -> None:
        """Check that some worker has a version, or will, and with it each of the others, which its method asks.

        Raises:
            Unsupported: none has (MODELS_APART).
        """
        asked: list[Version] = []
        for other in others:
            asked.append(other)
            if self.apart(version, *asked):
                raise Unsupported(
                    f"no worker has both the model {version.model!r} and {other.model!r}, which the method asks too",
                    reason="MODELS_APART",
                    metadata={"model": version.model, "other": other.model},
                )

    @contextlib.contextmanager
    def pinned(self, name: str, generation: int = 0) -> Iterator[catalog_pb2.Model]:
        """Keep a version of a model while something is done with it, the current one when none is named.

        Yields what is known of it: its digest and its generation, among other things.

        Raises:
            NotFound: there is no such model (MODEL_NOT_FOUND).
            Unsupported: it is not loaded, or it was not possible to load it (MODEL_NOT_LOADED).
            Unavailable: it is being loaded (MODEL_LOADING).
        """
        served = self.find(name)
        if not generation:
            self._check_serves(served)
            generation = served.generation
        model = served.models[generation]
        served.calls[generation] += 1
        try:
            yield model
        finally:
            served.calls[generation] -= 1
            if not served.calls[generation]:
                del served.calls[generation]
                if generation != served.generation:
                    served.models.pop(generation, None)
                if served.unloading or generation != served.generation:
                    self.notify()

    def find(self, name: str) -> Served:
        """Return a model.

        Raises:
            NotFound: there is none of this name; the message has close ones.
        """
        if name in self.served:
            return self.served[name]
        shown = name if len(name) <= 64 else f"{name[:64]}..."
        close = difflib.get_close_matches(name[:256], self.served, n=3)
        known = ", ".join(sorted(self.served)[:20]) or "none"
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {known}"
        raise NotFound(f"there is no model {shown!r}; {hint}", reason="MODEL_NOT_FOUND", field="model")

    def state(self, served: Served) -> catalog_pb2.ModelState:
        """Return what becomes of a model."""
        if served.unloading:
            return catalog_pb2.MODEL_STATE_UNLOADING
        if served.wanted and served.generation and self.holders(served.version):
            return catalog_pb2.MODEL_STATE_READY
        if served.next_generation or (served.wanted and (self._awaited(served) or served.error is None)):
            return catalog_pb2.MODEL_STATE_LOADING
        return catalog_pb2.MODEL_STATE_UNLOADED if served.error is None else catalog_pb2.MODEL_STATE_FAILED

    def models(self) -> list[catalog_pb2.Model]:
        """Return what the catalog says of each model, in the order of their names."""
        found = []
        for name in sorted(self.served):
            served = self.served[name]
            model = catalog_pb2.Model(name=name, source=served.choice.source)
            if served.model is not None:
                model.CopyFrom(served.model)
            model.state = self.state(served)
            found.append(model)
        return found

    def status(self, name: str) -> admin_pb2.ModelStatus:
        """Return what an administrator is told of a model."""
        served = self.find(name)
        status = admin_pb2.ModelStatus(
            name=name,
            state=self.state(served),
            source=served.choice.source,
            digest=served.model.digest if served.model else "",
            generation=served.generation,
            ready_time=served.ready_time,
            next_generation=served.next_generation,
            ending_calls=served.ending_calls,
            error=None if served.error is None else error_to_proto(served.error),
        )
        holding = {worker for worker, held in self.held.items() if any(version.model == name for version in held)}
        for worker in sorted({*served.choice.workers, *holding}):
            held = self.held.get(worker, {})
            status.workers.add(
                worker=worker,
                device=self.devices.get(worker, ""),
                up=worker in self.held,
                generations=sorted(version.generation for version in held if version.model == name),
            )
        return status

    def _places(self, version: Version) -> set[int]:
        """Return the workers that have a version, or are to have it."""
        served = self.served[version.model]
        to_have = served.choice.workers if served.wanted and version == served.version else ()
        return {*self.holders(version), *to_have}

    def _awaited(self, served: Served) -> bool:
        """Whether a worker is still to have the current version: it is being started, or loads it."""
        return any(
            worker not in self.held or (worker, served.version) in self.loads for worker in served.choice.workers
        )

    def _check_serves(self, served: Served) -> None:
        name = served.choice.name
        if not served.wanted:
            if served.next_generation:
                raise loading(name)
            why = "is not loaded" if served.error is None else "could not be loaded"
            raise Unsupported(
                f"the model {name!r} {why}", reason="MODEL_NOT_LOADED", field="model", metadata={"model": name}
            )
        if not served.generation:
            raise loading(name)


def loading(name: str) -> Unavailable:
    """Return what a call is told whose model is not loaded yet."""
    return Unavailable(f"the model {name!r} is being loaded", reason="MODEL_LOADING", retry_after=LOADING_RETRY_SECONDS)
