"""How urgent a call is, in one word; knows not what a server makes of it."""

from __future__ import annotations

import enum

from whylight.errors import InvalidInput


class Priority(enum.Enum):
    """How urgent a call is. What is interactive goes first; bulk work is served beside it by a guaranteed share."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


def as_priority(value: Priority | str) -> Priority:
    """Return a priority that may be given by its word.

    Raises:
        InvalidInput: there is none of that name.
    """
    try:
        return Priority(value)
    except ValueError:
        words = " or ".join(repr(one.value) for one in Priority)
        raise InvalidInput(f"{value!r} is no priority; it is {words}", field="priority") from None
