"""Callers that go away: at every stage, one of N never disturbs the others, and nothing of it is left behind.

Peers lose whole batches here: ray #41057, #50046; MLServer 1.7.1 (research/serving.md 2.2).
"""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakePool, Stage, labels, settle, stage

from whylight.engine import Bounds


async def cancel(call: asyncio.Task) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def assert_nothing_left(s: Stage) -> None:
    assert s.engine.queued == s.engine.in_flight == 0
    assert s.clock.pending == 0


async def blocked(bounds: Bounds | None = None) -> tuple[Stage, list[asyncio.Task]]:
    """A worker that has all the batches it takes."""
    s = await stage(bounds)
    blockers = [s.call("x"), s.call("y")]
    await settle()
    assert s.sent == [["x"], ["y"]]
    return s, blockers


async def finish_all(s: Stage) -> None:
    while s.pool.batches:
        s.pool.finish()
    await settle()


async def test_while_it_is_planned() -> None:
    s = await stage(pool=FakePool(hold_plans=True))
    call = s.call("a", timeout=5.0)
    await settle()
    await cancel(call)
    s.pool.answer_plan()
    await settle()
    assert s.sent == []
    assert_nothing_left(s)


async def test_while_it_waits_it_leaves_at_once_and_makes_room() -> None:
    s, blockers = await blocked(Bounds(max_batch_items=3, max_queued_items=3))
    calls = [s.call(name, timeout=50.0) for name in "abc"]
    await settle()
    await cancel(calls[1])
    assert s.engine.queued == 2
    assert s.pool.cancelled == [], "the worker never had it"
    calls.append(s.call("d"))
    await settle()
    assert s.engine.queued == 3
    s.pool.finish()
    assert s.sent[-1] == ["a", "c", "d"], "a full batch, sent while y is being computed"
    await finish_all(s)
    assert [labels(await call) for call in (*blockers, calls[0], *calls[2:])] == [["x"], ["y"], ["a"], ["c"], ["d"]]
    assert_nothing_left(s)


@pytest.mark.parametrize("victim", [0, 1, 2, 3])
async def test_in_a_batch_at_the_worker_the_others_get_their_answers(victim: int) -> None:
    s, blockers = await blocked()
    calls = [s.call(name) for name in "abcd"]
    await settle()
    s.pool.finish()
    s.pool.finish()
    assert s.sent == [list("abcd")]
    _, batch = s.pool.batches[0]
    await cancel(calls[victim])
    assert s.pool.cancelled == [(0, batch.items[victim].item_id)]
    await finish_all(s)  # the worker was quicker than the recall: it gives the result of the victim too
    assert [labels(await call) for n, call in enumerate(calls) if n != victim] == [
        [name] for n, name in enumerate("abcd") if n != victim
    ]
    for blocker in blockers:
        await blocker
    assert_nothing_left(s)


async def test_all_of_a_batch_at_once_still_frees_the_worker_for_the_next() -> None:
    s, blockers = await blocked()
    calls = [s.call(name) for name in "abc"]
    await settle()
    s.pool.finish()
    s.pool.finish()
    assert s.sent == [list("abc")]
    for call in calls:
        await cancel(call)
    after = s.call("after")
    await settle()
    assert s.pool.finish().items[0].input.image == b"a"
    await finish_all(s)
    assert labels(await after) == ["after"]
    for blocker in blockers:
        await blocker
    assert_nothing_left(s)


async def test_a_call_of_many_is_taken_back_wherever_its_inputs_are() -> None:
    s = await stage(Bounds(max_batch_items=2))
    call = s.call(*"abcdefg", timeout=50.0)
    await settle()
    worker, batch = s.pool.batches[0]
    s.pool.give_result(worker, batch.items[0])
    await settle()
    await cancel(call)
    recalled = [item.item_id for _, batch in s.pool.batches for item in batch.items][1:]
    assert s.pool.cancelled == [(0, id) for id in recalled]
    assert s.engine.queued == 0
    await finish_all(s)
    assert_nothing_left(s)


async def test_in_the_same_breath_as_the_result() -> None:
    s = await stage()
    call = s.call("a")
    await settle()
    s.pool.finish()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert s.pool.cancelled == []
    assert_nothing_left(s)


async def test_between_the_loss_of_the_worker_and_its_return() -> None:
    s, blockers = await blocked()
    waiting = s.call("a")
    await settle()
    s.pool.down()
    await cancel(waiting)
    s.pool.up()
    assert s.sent == []
    for blocker in blockers:
        with pytest.raises(Exception, match="lost"):
            await blocker
    assert_nothing_left(s)


async def test_after_its_deadline_it_is_recalled_only_once() -> None:
    s = await stage()
    call = s.call("a", timeout=1.0)
    await settle()
    s.clock.advance(1.0)
    call.cancel()
    await settle()
    assert len(s.pool.cancelled) == 1
    await finish_all(s)
    assert_nothing_left(s)


async def test_while_the_engine_drains_the_drain_ends() -> None:
    s, blockers = await blocked()
    waiting = s.call("a")
    await settle()
    drain = asyncio.ensure_future(s.engine.drain(30.0))
    await settle()
    for call in (waiting, *blockers):
        await cancel(call)
    await drain
    assert_nothing_left(s)
