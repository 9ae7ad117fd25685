"""One worker as a process of this machine: spawned, spoken to over a socket pair, ended; does not start it again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from whylight.engine import frames
from whylight.engine.log_pipe import LogPipe
from whylight.engine.pool import WorkerStartError
from whylight.worker.config import WorkerConfig
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger("whylight.worker")

_EXIT_GRACE = 1.0
"""Seconds that a process has between closing its end of the socket and its exit, whose code tells why it ended."""

_LOG_GRACE = 1.0
"""Seconds to wait for the rest of the log of a process that has ended, while something that it started holds it."""


class LocalWorker:
    """A worker process from its spawning to its end.

    It is spawned, never forked: no thread, socket or CUDA context of this process reaches it, but its end of a socket
    pair, which has no name that others could open. It gets its config over stdin; what it prints goes to our log. It is
    in a session of its own, so that a Ctrl-C in the terminal reaches only us and in-flight work can be finished.
    """

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log: LogPipe,
    ) -> None:
        self._name = name
        self._process = process
        self._reader = reader
        self._writer = writer
        self._log = log

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, name: str, command: Sequence[str], config: WorkerConfig) -> AsyncIterator[LocalWorker]:
        """Spawn a worker that has ended, by itself or killed, when the block ends. It is not up at the beginning.

        Raises:
            OSError: the process cannot be started.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            log = await LogPipe.open(name, _log)
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=2**20)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    "--socket",
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log.inlet,
                    stderr=log.inlet,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
                theirs.close()
                log.close_inlet()
                worker = cls(name, process, reader, writer, log)
                try:
                    worker._configure(config)
                    yield worker
                finally:
                    worker.kill()
                    await _to_its_end(worker.wait())  # a killed process that nobody waits for stays in the list
            finally:
                writer.close()
                await log.finish(0.0)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ready(self, timeout: float) -> worker_pb2.Ready:
        """Wait until the worker has loaded its models.

        Raises:
            WorkerStartError: it says that it cannot, it ends, or it needs more than `timeout` seconds.
        """
        try:
            frame = await asyncio.wait_for(frames.read(self._reader, worker_pb2.WorkerFrame), timeout)
        except asyncio.TimeoutError:
            raise WorkerStartError(f"{self._name} was not ready after {timeout:g} seconds") from None
        except OSError as error:
            raise WorkerStartError(f"{self._name} broke off its start: {error}") from None
        if frame is None:
            raise WorkerStartError(f"before it was ready, {await self.end()}")
        if frame.WhichOneof("body") == "failure":
            raise WorkerStartError(f"{self._name} cannot start: {frame.failure.message}")
        if frame.WhichOneof("body") != "ready":
            raise WorkerStartError(f"{self._name} said {frame.WhichOneof('body')!r} before it was ready")
        return frame.ready

    async def listen(self, take: Callable[[worker_pb2.WorkerFrame], None]) -> None:
        """Hand every frame to `take` until the worker closes its end, breaks off or is killed."""
        try:
            while (frame := await frames.read(self._reader, worker_pb2.WorkerFrame)) is not None:
                try:
                    take(frame)
                except Exception:  # The fault is ours, not the worker's: the frames after it are still good.
                    _log.exception("%s said something that could not be taken in", self._name)
        except OSError as error:
            _log.error("%s broke off: %s", self._name, error)

    def send(self, frame: worker_pb2.FrontEndFrame) -> None:
        """Send a frame without waiting; one to a worker that has ended is dropped."""
        if not self._writer.is_closing():
            frames.write(self._writer, frame)

    def kill(self) -> None:
        """End the process and whatever it started in its session, at once. Its exit is for `wait` to collect."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Close the connection, wait for the exit and return its code; negative for a signal."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        code = await self._process.wait()
        await self._log.finish(_LOG_GRACE)
        return code

    async def end(self) -> str:
        """Wait for a process that closed its end of the socket, kill it if it goes on, and say how it ended."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.wait(), _EXIT_GRACE)
        self.kill()
        code = await self.wait()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with code {code}"
        return f"{self._name} (pid {self.pid}) {how}; the last that it printed: {self._log.last_lines}"

    def _configure(self, config: WorkerConfig) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(config.to_json().encode())
        self._process.stdin.close()


async def _to_its_end(waiting: Coroutine[Any, Any, int]) -> None:
    """Wait for what ends soon, even when the caller is cancelled meanwhile, who hears of it afterwards."""
    task = asyncio.ensure_future(waiting)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


def _signal_name(number: int) -> str:
    """Return the name of a signal; real-time signals have none but the first and the last."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
