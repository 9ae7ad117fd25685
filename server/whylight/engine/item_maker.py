"""Makes items of the inputs of a call: their price, their place in the queues, how long they may take; admits none."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable

from whylight.engine.bounds import Bounds
from whylight.engine.frames import FRAME_BYTES
from whylight.engine.item import Item
from whylight.engine.plan import Plan
from whylight.engine.ticket import Ticket
from whylight.engine.work import Work, evaluations, references, signature
from whylight.errors import InvalidInput
from whylight.v1 import catalog_pb2


class ItemMaker:
    """Numbers items, and draws the seeds of those that are stochastic and have none."""

    def __init__(self, bounds: Bounds, draw_seed: Callable[[], int]) -> None:
        self._bounds = bounds
        self._draw_seed = draw_seed
        self._ids = itertools.count(1)

    def make(self, work: Work, plan: Plan, model: catalog_pb2.Model, index: int, arrived: float, call: int) -> Item:
        """Return the item of the input at `index`, of a call with a number of its own that came at the time `arrived`.

        Raises:
            InvalidInput: it is larger than what a worker takes (REQUEST_TOO_LARGE).
        """
        input = work.inputs[index]
        allowed = arrived + (self._bounds.long_call_seconds if plan.long else self._bounds.max_call_seconds)
        deadline = math.inf if work.deadline is None else work.deadline
        seeds: tuple[int, ...] = ()
        if any(plan.stochastic):
            given = work.seeds or (None,) * len(plan.stochastic)
            seeds = tuple(
                (self._draw_seed() if seed is None else seed) if stochastic else 0
                for stochastic, seed in zip(plan.stochastic, given, strict=True)
            )
        ticket = Ticket(
            id=next(self._ids),
            queue=(plan.version, plan.others, plan.key, signature(input)),
            cost=plan.item_cost(len(input.targets)) * evaluations(input, model) + references(input),
            size=input.ByteSize() + sum(picture.ByteSize() for picture in work.pictures),
            deadline=min(deadline, allowed),
            caller="" if work.caller is None else work.caller,
            call=call,
            priority=work.priority,
        )
        if ticket.size > FRAME_BYTES // 2:
            raise InvalidInput(
                f"an input has {ticket.size} bytes, more than the {FRAME_BYTES // 2} that a worker takes",
                reason="REQUEST_TOO_LARGE",
            )
        outcome = asyncio.get_running_loop().create_future()
        return Item(
            ticket,
            plan,
            input,
            seeds,
            arrived,
            outcome,
            work.room,
            work.watch,
            index,
            work.pictures,
            work.preview_interval,
            work.trace,
            allowed=allowed if allowed < deadline else None,
            request_id=work.request_id,
        )
