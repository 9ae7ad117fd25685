"""One record of a worker's log as one line of its pipe, to its end and back; knows neither end.

A line is a JSON text sequence (RFC 7464): a mark that no text begins with, an object, a newline. So a traceback stays
with its message, and what a plugin prints is not taken for a record.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MARK = "\x1e"

LINE_BYTES = 2**16
"""Bytes of a line at most; a longer one is cut and is a record no more."""

_MESSAGE_LENGTH = 8192
_EXCEPTION_LENGTH = 16384
_REQUESTS = 8

_requests: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("requests", default=())


@contextlib.contextmanager
def working_for(request_ids: Iterable[str]) -> Iterator[None]:
    """Name the requests that records of this block are about."""
    token = _requests.set(tuple(request_ids))
    try:
        yield
    finally:
        _requests.reset(token)


@dataclass(frozen=True)
class LogLine:
    """What is left of a record: `request_id` names several, with commas, when it is about a batch."""

    level: int
    logger: str
    message: str
    exception: str = ""
    request_id: str = ""


class LogLineFormatter(logging.Formatter):
    """Writes records as lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without the newline; the beginning of a long traceback is left out."""
        exception = self.formatException(record.exc_info) if record.exc_info else ""
        requests = _requests.get()
        line = {
            "level": record.levelno,
            "logger": record.name,
            "message": record.getMessage()[:_MESSAGE_LENGTH],
            "exception": exception[-_EXCEPTION_LENGTH:],
            "request_id": ",".join(requests[:_REQUESTS]) + ",..." * (len(requests) > _REQUESTS),
        }
        return MARK + json.dumps(line, ensure_ascii=False)


def read_line(text: str) -> LogLine | None:
    """Return the record of a line, None when it is not one."""
    if not text.startswith(MARK):
        return None
    try:
        fields = json.loads(text[len(MARK) :])
        return LogLine(int(fields["level"]), *(str(fields[name]) for name in _TEXTS))
    except (ValueError, KeyError, TypeError):
        return None


_TEXTS = ("logger", "message", "exception", "request_id")
