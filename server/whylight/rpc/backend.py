"""What the services need of the engine: its face, so that they can be tried without one; knows no implementation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from whylight.engine.engine import State
from whylight.engine.work import Work
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2


class Backend(Protocol):
    """Something that explains; `whylight.engine.engine.Engine` is one."""

    @property
    def state(self) -> State:
        """Whether work is taken. It is when a worker is up, with all models loaded."""

    @property
    def catalog(self) -> worker_pb2.Ready | None:
        """What there is to offer, None until the first worker has told."""

    @property
    def devices(self) -> Sequence[str]:
        """Devices of the workers."""

    def pinned(self, model: str) -> AbstractContextManager[catalog_pb2.Model]:
        """Keep the version of a model that answers now while one call works with it, and yield what is known of it.

        Work whose `spec.generation` is that of the version is done on it and on no other.

        Raises:
            WhylightError: there is no such model, or it does not answer calls now.
        """

    async def explain(self, work: Work) -> list[v1.InputResult]:
        """Return one result for each input. Cancelling the caller cancels the work."""

    def hasten(self) -> None:
        """Let batches leave unfilled from now on: no more work is to come that could fill them."""
