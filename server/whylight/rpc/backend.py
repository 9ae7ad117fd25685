"""What the services need of the engine: its face, so that they can be tried without one; knows no implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from whylight.engine.engine import State
from whylight.engine.work import Work
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

    async def explain(self, work: Work) -> list[v1.InputResult]:
        """Return one result for each input. Cancelling the caller cancels the work."""

    def hasten(self) -> None:
        """Let batches leave unfilled from now on: no more work is to come that could fill them."""
