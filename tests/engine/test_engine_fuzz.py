"""The engine under any sequence of calls, cancels, results, losses and time: every call ends, with its own answer."""

from __future__ import annotations

import asyncio
from collections import Counter

from engine_fakes import FakePool, Stage, labels, settle, stage
from hypothesis import example, given, settings
from hypothesis import strategies as st

from whylight.engine import Bounds
from whylight.errors import DeadlineExceeded, Overloaded, Unavailable
from whylight.priority import Priority

WORKERS = 2

step = st.one_of(
    st.tuples(
        st.just("call"),
        st.integers(1, 7),
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, 0.4, 3.0]),
        st.sampled_from([None, "me", "you"]),
        st.sampled_from(Priority),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("result"), st.integers(0, 30)),
    st.tuples(st.just("finish"), st.integers(0, 3), st.sampled_from([0.0, 0.5, 2.0])),
    st.tuples(st.just("lose"), st.integers(0, WORKERS - 1)),
    st.tuples(st.just("revive"), st.integers(0, WORKERS - 1)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 0.5, 5.0])),
    st.tuples(st.just("breathe")),
)


async def play(steps: list[tuple]) -> None:
    bounds = Bounds(max_batch_items=3, max_batch_cost=9.0, max_delay=0.2, max_queued_items=12)
    s = await stage(bounds, pool=FakePool(WORKERS))
    calls: list[tuple[list[str], asyncio.Task]] = []
    ends: Counter[object] = Counter()
    s.engine.on_end(lambda report: ends.update([report.trace]))
    up = set(range(WORKERS))
    for kind, *values in steps:
        match kind, values:
            case "call", (count, method, timeout, caller, priority):
                names = [f"{len(calls)}.{place}" for place in range(count)]
                call = s.call(
                    *names, method=method, timeout=timeout, caller=caller, priority=priority, trace=len(calls)
                )
                calls.append((names, call))
            case "cancel", (which,) if calls:
                calls[which % len(calls)][1].cancel()
            case "result", (which,) if s.pool.batches:
                worker, batch = s.pool.batches[which % len(s.pool.batches)]
                s.pool.give_result(worker, batch.items[which % len(batch.items)])
            case "finish", (which, busy) if s.pool.batches:
                finish_first_of(s, s.pool.batches[which % len(s.pool.batches)][0], busy)
            case "lose", (worker,):
                if worker in up:
                    await settle()  # a worker that is down answers no plans: let it answer what it was asked
                s.pool.down(worker)
                up.discard(worker)
            case "revive", (worker,) if worker not in up:
                s.pool.up(worker)
                up.add(worker)
            case "wait", (seconds,):
                s.clock.advance(seconds)
            case "breathe", _:
                await settle()
        assert s.engine.queued <= bounds.max_queued_items
        assert all(len(batch.items) <= bounds.max_batch_items for _, batch in s.pool.batches)
        held = [worker for worker, _ in s.pool.batches]
        assert all(held.count(worker) <= 2 for worker in range(WORKERS))
    await bring_to_an_end(s, up)
    for number, (names, call) in enumerate(calls):
        assert call.done()
        assert ends[number] in (0, len(names)), "each item ends once, or none was ever taken"
        if not call.cancelled() and call.exception() is None:
            assert ends[number] == len(names)
        if call.cancelled():
            continue
        error = call.exception()
        if error is not None:
            assert isinstance(error, DeadlineExceeded | Overloaded | Unavailable)
            continue
        for name, result in zip(names, call.result(), strict=True):
            assert result.error.reason in ("WORKER_LOST", "DEADLINE_EXCEEDED") or labels([result]) == [name]
    assert s.engine.queued == s.engine.in_flight == 0
    assert s.clock.pending == 0


def finish_first_of(s: Stage, worker: int, busy: float) -> None:
    """Finish the first batch of a worker: it works them off in order."""
    place = next(place for place, (holder, _) in enumerate(s.pool.batches) if holder == worker)
    s.pool.batches.insert(0, s.pool.batches.pop(place))
    s.pool.finish(busy=busy)


async def bring_to_an_end(s: Stage, up: set[int]) -> None:
    for worker in set(range(WORKERS)) - up:
        s.pool.up(worker)
    await settle()
    s.clock.advance(1.0)
    while s.pool.batches or s.engine.queued:
        if s.pool.batches:
            finish_first_of(s, s.pool.batches[0][0], 0.1)
        await settle()
        s.clock.advance(1.0)
    await settle()  # who is told last that its time is over has to hear it


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(step, max_size=40))
@example(
    steps=[
        ("call", 1, "a", None, None, Priority.INTERACTIVE),
        ("call", 1, "a", 0.4, None, Priority.INTERACTIVE),
        ("cancel", 0),
        ("wait", 0.1),
        ("wait", 0.1),
    ]
)
def test_every_call_ends_with_its_own_answer_or_a_reason(steps: list[tuple]) -> None:
    asyncio.run(play(steps))
