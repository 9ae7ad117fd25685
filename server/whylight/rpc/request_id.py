"""The id by which one call is found again in the logs; knows nothing of what the call does."""

from __future__ import annotations

import contextvars
import re
import uuid
from collections.abc import Iterable

REQUEST_ID_KEY = "x-request-id"
"""Name of the metadata entry that carries the id, both ways."""

NO_REQUEST = "-"

_current: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default=NO_REQUEST)
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def current_request_id() -> str:
    """Return the id of the call that this code works for, or ``-`` outside of calls."""
    return _current.get()


def begin_request(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Set and return the id of the call: the caller's own where it is well formed, otherwise a new one.

    What a caller sends goes into the log, so only short and plain ids are taken.
    """
    request_id = next((value for key, value in metadata or () if key == REQUEST_ID_KEY), "")
    if not isinstance(request_id, str) or not _WELL_FORMED.fullmatch(request_id):
        request_id = uuid.uuid4().hex
    _current.set(request_id)
    return request_id
