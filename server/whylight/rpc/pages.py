"""Cuts a list into pages with opaque tokens; knows nothing of what is listed, only that it is sorted by name."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Protocol, TypeVar

from whylight.errors import InvalidInput

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


class Named(Protocol):
    """Something with a name."""

    name: str


Thing = TypeVar("Thing", bound=Named)


def page(things: Sequence[Thing], page_size: int, page_token: str, *, kind: str) -> tuple[list[Thing], str]:
    """Return one page of `things`, which are in the order of their names, and the token of the next page.

    A token holds the last name of its page: a list that has changed in between neither repeats nor leaves out anything
    that was there all the time. It is good for lists of the same `kind` only.

    Raises:
        InvalidInput: the page size is negative, or the token is none of ours.
    """
    if page_size < 0:
        raise InvalidInput(f"{page_size} is negative; 0 means {DEFAULT_PAGE_SIZE}", field="page_size")
    size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    last = _last_name(page_token, kind) if page_token else None
    rest = [thing for thing in things if last is None or thing.name > last]
    if len(rest) <= size:
        return rest, ""
    return rest[:size], base64.urlsafe_b64encode(f"{kind}:{rest[size - 1].name}".encode()).decode()


def _last_name(token: str, kind: str) -> str:
    try:
        told, _, name = base64.b64decode(token.encode(), b"-_", validate=True).decode().partition(":")
    except (binascii.Error, UnicodeError):
        told, name = "", ""
    if told != kind:
        raise InvalidInput("the token is not one that this list gave", reason="PAGE_TOKEN_INVALID", field="page_token")
    return name
