"""A pipe whose lines go to a log; knows nothing of who writes into it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque

from whylight.engine.log_line import LINE_BYTES, MARK, LogLine, read_line

_LINE_BYTES = 8192
_LAST_LINES = 20
_LEVELS = {logging.getLevelName(level): level for level in (10, 20, 30, 40, 50)}


class LogPipe:
    """What a child process prints, passed on line by line; a line without an end is cut.

    A line that is a record of the child's own log (`whylight.engine.log_line`) becomes one of ours, with its level, its
    logger and its traceback; its `worker` is the name of the pipe. Any other line has the level whose name it begins
    with, and so have those that follow it; what comes before any is INFO.
    `inlet` is the descriptor that the child writes to. The outlet is closed by `finish`, even when somebody still holds
    the inlet: what a child started may outlive it.
    """

    def __init__(self, name: str, log: logging.Logger, inlet: int, reader: asyncio.StreamReader) -> None:
        self.inlet = inlet
        self._name = name
        self._log = log
        self._reader = reader
        self._level = logging.INFO
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._passing = asyncio.ensure_future(self._pass_on())
        self._outlet: asyncio.ReadTransport | None = None

    @classmethod
    async def open(cls, name: str, log: logging.Logger) -> LogPipe:
        """Make a pipe; `name` is put before each line."""
        outlet, inlet = os.pipe()
        reader = asyncio.StreamReader()
        pipe = cls(name, log, inlet, reader)
        protocol = asyncio.StreamReaderProtocol(reader)
        pipe._outlet, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: protocol, os.fdopen(outlet, "rb", buffering=0)
        )
        return pipe

    @property
    def last_lines(self) -> str:
        """The last lines that were printed."""
        return "\n".join(["", *self._last_lines]) if self._last_lines else "nothing"

    def close_inlet(self) -> None:
        """Close our own end of the inlet; the child has its own."""
        if self.inlet >= 0:
            os.close(self.inlet)
            self.inlet = -1

    async def finish(self, grace: float) -> None:
        """Wait until everybody has closed the inlet, but not longer than `grace` seconds, and close the outlet."""
        self.close_inlet()
        await asyncio.wait([self._passing], timeout=grace)
        self._passing.cancel()
        if self._outlet:
            self._outlet.close()

    async def _pass_on(self) -> None:
        rest = b""
        while chunk := await self._reader.read(_LINE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > (LINE_BYTES if rest.startswith(MARK.encode()) else _LINE_BYTES):
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        record = read_line(text)
        if record is not None:
            self._hand_on(record)
            return
        self._last_lines.append(text)
        level, _, rest = text.partition(" ")
        if level in _LEVELS:
            self._level, text = _LEVELS[level], rest
        self._log.log(self._level, "%s: %s", self._name, text)

    def _hand_on(self, line: LogLine) -> None:
        named = f"{logging.getLevelName(line.level)} {line.logger}: {line.message}"
        self._last_lines.extend("\n".join(filter(None, (named, line.exception))).splitlines())
        if self._log.isEnabledFor(line.level):
            record = logging.LogRecord(line.logger, line.level, "", 0, "%s", (line.message,), None)
            record.exc_text = line.exception or None
            record.worker = self._name
            if line.request_id:
                record.request_id = line.request_id
            self._log.handle(record)
