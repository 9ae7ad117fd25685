"""Starts the client processes of a load at one time and gathers what they counted; opens no connection itself."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO

from whylight.cli.load.process import NOT_READY, READY
from whylight.cli.load.report import Report
from whylight.cli.load.spec import Load
from whylight.cli.load.tally import Tally, together
from whylight.errors import InternalError
from whylight.wire.errors import make_error

_START = 0.2
"""Seconds between the word to begin and the beginning, so that all have heard it."""


def put_under_load(load: Load, *, on_begin: Callable[[float], object] = lambda begin: None) -> Report:
    """Put a server under load from `load.processes` processes, and return what was measured.

    Processes, not threads: a single client has one interpreter, and would measure itself. `on_begin` is called with the
    time on the monotonic clock at which all will begin.

    Raises:
        WhylightError: the server is not ready within `load.deadline` seconds, or a process broke off.
    """
    command = [sys.executable, "-m", "whylight.cli.load.process"]
    with contextlib.ExitStack() as stack:
        processes = []
        for index in range(load.processes):
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            processes.append(process)
            _tell(process, load.part(index).to_json())
        for process in processes:
            _hear(process, READY)
        begin = time.monotonic() + _START
        on_begin(begin)
        for process in processes:
            _tell(process, repr(begin))
        tallies = [Tally.from_json(_hear(process)) for process in processes]
        for process in processes:
            process.wait()
    return Report(load, begin, together(tallies))


def _tell(process: subprocess.Popen[str], line: str) -> None:
    pipe = _pipe(process.stdin)
    with contextlib.suppress(BrokenPipeError):  # it has ended: what it said last tells why
        pipe.write(line + "\n")
        pipe.flush()


def _hear(process: subprocess.Popen[str], expected: str | None = None) -> str:
    line = _pipe(process.stdout).readline().rstrip("\n")
    if line.startswith(NOT_READY):
        code, reason, message = line.removeprefix(NOT_READY).split(" ", 2)
        raise make_error(int(code), message, reason=reason)
    if not line or (expected is not None and line != expected):
        raise InternalError(f"a client process broke off (exit code {process.wait()})")
    return line


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
