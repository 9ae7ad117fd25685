"""Priorities as messages have them; knows not what a server makes of them."""

from __future__ import annotations

from whylight.errors import InvalidInput
from whylight.priority import Priority
from whylight.v1 import explanation_pb2 as pb

_TO_PROTO = {
    Priority.INTERACTIVE: pb.PRIORITY_INTERACTIVE,
    Priority.BULK: pb.PRIORITY_BULK,
}
_FROM_PROTO = {number: priority for priority, number in _TO_PROTO.items()}


def priority_to_proto(priority: Priority) -> pb.Priority:
    """Return a priority as a message has it; the usual one is left unset."""
    return pb.PRIORITY_UNSPECIFIED if priority is Priority.INTERACTIVE else _TO_PROTO[priority]


def priority_from_proto(number: pb.Priority) -> Priority:
    """Return what a message says; unset means interactive.

    Raises:
        InvalidInput: no priority that is known here, at "priority".
    """
    if number == pb.PRIORITY_UNSPECIFIED:
        return Priority.INTERACTIVE
    if number not in _FROM_PROTO:
        raise InvalidInput(f"{number} is no priority", field="priority")
    return _FROM_PROTO[number]
