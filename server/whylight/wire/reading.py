"""Errors for answers that cannot be read, where the other side is at fault; knows no message of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from whylight.errors import InternalError, InvalidInput


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn "you sent something wrong" into "we got something wrong": here the other side is the one that answers."""
    try:
        yield
    except InvalidInput as error:
        raise unreadable(f"{what} cannot be read: {error.message}") from error


def unreadable(message: str) -> InternalError:
    """Return the error of an answer that this version cannot read."""
    return InternalError(message, reason="RESPONSE_INVALID")
