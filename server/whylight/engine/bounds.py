"""How much work waits and how much of it makes a batch, as data checked at start; knows no queue and no worker."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from whylight.engine.frames import FRAME_BYTES

_LONG_ITEMS = 16
_LONG_DELAY = 0.05


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of the queues and of one batch.

    Cost is counted in model evaluations, sizes in bytes of input as they travel, times in seconds. A batch closes when
    a worker is free, unless `max_delay` is above 0: then it waits that long, from its first item, to become full. One
    item above `max_batch_cost` or `max_batch_bytes` makes a batch alone. `bulk_share` is the part of what is served
    that bulk work is owed while interactive work waits. A call takes `max_call_seconds` at most, waiting included.

    The bounds whose names begin with `long` are those of long work: what one call may cost, what may wait, and how long
    a call may take.

    Raises:
        ValueError: a bound is not above 0, or a full batch could never wait in the queues.
    """

    max_batch_items: int = 32
    max_batch_cost: float = 256.0
    max_batch_bytes: int = 64 * 2**20
    max_delay: float = 0.0
    max_queued_items: int = 4096
    max_queued_cost: float = 65536.0
    max_queued_bytes: int = 512 * 2**20
    max_call_cost: float = math.inf
    max_call_seconds: float = math.inf
    bulk_share: float = 0.1
    long_call_cost: float = 2.0e6
    long_queued_cost: float = 8.0e6
    long_call_seconds: float = math.inf

    def of_long_work(self) -> Bounds:
        """Return the bounds of long work, whose cost says how long it takes and not what must be there at once.

        It gathers for a moment, which is nothing beside the time that it takes, so that calls for the same share steps.
        """
        return replace(
            self,
            max_batch_items=min(self.max_batch_items, _LONG_ITEMS),
            max_batch_cost=self.long_queued_cost,
            max_delay=max(self.max_delay, _LONG_DELAY),
            max_queued_cost=self.long_queued_cost,
            max_call_cost=self.long_call_cost,
            max_call_seconds=self.long_call_seconds,
        )

    def __post_init__(self) -> None:
        for name in ("items", "cost", "bytes"):
            batch, queued = getattr(self, f"max_batch_{name}"), getattr(self, f"max_queued_{name}")
            if not 0 < batch < math.inf:
                raise ValueError(f"max_batch_{name} is {batch}; it must be above 0")
            if not batch <= queued < math.inf:
                raise ValueError(
                    f"max_queued_{name} is {queued}, below max_batch_{name}, {batch}: no batch would ever be full"
                )
        if self.max_batch_bytes > FRAME_BYTES // 2:
            raise ValueError(f"max_batch_bytes is {self.max_batch_bytes}, above what a frame takes: {FRAME_BYTES // 2}")
        if not 0 < self.long_call_cost <= self.long_queued_cost < math.inf:
            raise ValueError(
                f"long_call_cost is {self.long_call_cost}; it must be above 0, and at most long_queued_cost, "
                f"{self.long_queued_cost}, which is finite"
            )
        if not (self.max_call_cost > 0 and self.max_call_seconds > 0 and self.long_call_seconds > 0):
            raise ValueError("max_call_cost, max_call_seconds and long_call_seconds must be above 0")
        if not 0 < self.bulk_share < 1:
            raise ValueError(f"bulk_share is {self.bulk_share}; it must be above 0 and below 1")
        if not 0 <= self.max_delay <= 60:
            raise ValueError(f"max_delay is {self.max_delay}; it must be between 0 and 60 seconds")
