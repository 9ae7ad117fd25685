"""How the front end's log is written: lines of text, or JSON objects of which each is a line; says nothing itself.

JSON has ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``request_id`` and ``caller`` where there is one,
``exception`` with a traceback, and whatever else a record was given, such as the ``worker`` that it came from.
"""

from __future__ import annotations

import datetime
import logging
import sys
from collections.abc import Callable
from typing import Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

TEXT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(place)s%(message)s"

NONE = "-"
"""What stands for no request in lines of text."""


class _Context(logging.Filter):
    """Gives every record the id of its request and the name of its caller, unless it brings them."""

    def __init__(self, request_id: Callable[[], str], caller: Callable[[], str]) -> None:
        super().__init__()
        self._request_id = request_id
        self._caller = caller

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = self._request_id()
        if not hasattr(record, "caller"):
            record.caller = self._caller()
        return True


class _Text(logging.Formatter):
    """A line for each record, and those of its traceback; what a worker says begins with the worker's name."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        worker = getattr(record, "worker", "")
        record.place = f"{worker}: " if worker else ""
        return super().formatMessage(record)


class _Json(JsonFormatter):
    """One object for each record, in one order: when, how bad, where, for whom, what."""

    def __init__(self) -> None:
        super().__init__(("message",), json_ensure_ascii=False)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        more: dict[str, Any] = {}
        super().add_fields(more, record, message_dict)
        message, exception = more.pop("message", ""), more.pop("exc_info", None)
        request_id, caller = more.pop("request_id", NONE), more.pop("caller", "")
        moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        log_data["time"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        if request_id != NONE:
            log_data["request_id"] = request_id
        if caller:
            log_data["caller"] = caller
        log_data["message"] = message
        log_data.update((name, value) for name, value in more.items() if value is not None)
        if exception:
            log_data["exception"] = exception


def configure_logging(
    level: str,
    format: Literal["text", "json"],
    *,
    request_id: Callable[[], str] = lambda: NONE,
    caller: Callable[[], str] = lambda: "",
    stream: TextIO | None = None,
) -> None:
    """Send the whole process's log, warnings of Python included, to standard error or to `stream`.

    `request_id` and `caller` are asked at each record for whom the current code works.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_Context(request_id, caller))
    handler.setFormatter(_Json() if format == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
