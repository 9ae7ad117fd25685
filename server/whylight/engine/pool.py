"""What workers are to the engine, wherever they run: frames to them, frames from them, up and down; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from whylight.worker.v1 import worker_pb2


class PoolListener(Protocol):
    """Who is told what the workers do. All calls come from the event loop that started the pool."""

    def worker_up(self, worker: int, ready: worker_pb2.Ready) -> None:
        """Tell that a worker has loaded its models and takes work."""

    def worker_said(self, worker: int, frame: worker_pb2.WorkerFrame) -> None:
        """Hand on what a worker that is up says."""

    def worker_down(self, worker: int, retry_after: float) -> None:
        """Tell that a worker was lost, or that another attempt to start it failed.

        What it held is lost with it. The pool tries again by itself; `retry_after` is its guess of how many seconds it
        will be until the worker is back.
        """


class WorkerPool(Protocol):
    """A fixed number of workers, numbered from 0, each of which owns one device."""

    @property
    def size(self) -> int:
        """How many workers there are, up or down."""

    async def start(self, listener: PoolListener) -> None:
        """Start the workers and return when all are up.

        Raises:
            WorkerStartError: a worker could not start; none is left running.
        """

    def send(self, worker: int, frame: worker_pb2.FrontEndFrame) -> None:
        """Send a frame without waiting. To a worker that is not up it goes nowhere: `worker_down` tells of the loss."""

    def configure(self, worker: int, models: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Set what a worker loads when it is started again: generations, and the fields of their ModelConfigs."""

    def kill(self, worker: int) -> None:
        """End a worker that answers no more; it is started again."""

    async def stop(self, grace: float) -> None:
        """Let every worker finish what it has and exit, and kill those that need more than `grace` seconds."""


class WorkerStartError(RuntimeError):
    """A worker could not start; the message says why, for the operator."""
