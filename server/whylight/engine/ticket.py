"""An item as queues see it, and how urgent it is; knows neither queues nor what an item holds."""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable
from dataclasses import dataclass


class Priority(enum.Enum):
    """How urgent a call is. What is interactive goes first; bulk work is served beside it by a guaranteed share."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True)
class Ticket:
    """An item as the scheduler sees it: cost in model evaluations, size in bytes, absolute deadline in seconds.

    `caller` is whose turn is used up by serving it, `call` the one of their calls that it belongs to; neither
    is None.
    """

    id: int
    queue: Hashable
    cost: float
    size: int = 0
    deadline: float = math.inf
    caller: Hashable = ""
    call: Hashable = 0
    priority: Priority = Priority.INTERACTIVE
