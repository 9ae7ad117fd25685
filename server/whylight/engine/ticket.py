"""An item as queues see it; knows neither queues nor what an item holds."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from whylight.priority import Priority


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
