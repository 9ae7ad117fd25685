"""Workers: who gets the next batch, when it is sent ahead, what their loss and their silence mean for calls."""

from __future__ import annotations

import pytest
from engine_fakes import labels, settle, stage

from whylight.engine import Bounds, State
from whylight.errors import Unavailable


async def test_the_least_loaded_worker_gets_the_next_batch() -> None:
    s = await stage(workers=2)
    calls = [s.call(name) for name in "abcde"]
    await settle()
    assert [worker for worker, _ in s.pool.batches] == [0, 1, 0, 1]
    s.pool.batches.insert(0, s.pool.batches.pop(1))
    s.pool.finish()
    assert s.pool.batches[-1][0] == 1
    while s.pool.batches:
        s.pool.finish()
    for call in calls:
        await call


async def test_a_worker_whose_batch_takes_longer_than_it_should_gets_the_next_one_last() -> None:
    """An answer comes before its worker counts as free: who asks again at once must not be put behind what hangs."""
    s = await stage(Bounds(max_batch_items=4), workers=2)
    warm = s.call("w")
    await settle()
    s.pool.finish(busy=1.0)
    await warm
    hangs = s.call("hangs")
    await settle()
    s.clock.advance(10.0)
    quick = s.call("quick")
    await settle()
    assert [worker for worker, _ in s.pool.batches] == [0, 1]
    s.clock.advance(0.25)
    behind = s.call("behind")
    await settle()
    assert s.sent == [["hangs"], ["quick"]], "it waits until the other one is at half"
    s.pool.batches.reverse()
    s.pool.finish()
    await quick
    await settle()
    assert [worker for worker, _ in s.pool.batches] == [0, 1], "in the place of the one that is done"
    while s.pool.batches:
        s.pool.finish()
    await hangs, await behind


async def test_before_half_of_a_batch_is_done_only_a_full_one_is_sent_after_it() -> None:
    s = await stage(Bounds(max_batch_items=4))
    warm = s.call("w")
    await settle()
    s.pool.finish(busy=1.0)
    await warm
    running = s.call("a", "b", "c", "d")
    await settle()
    first = s.call("e")
    await settle()
    assert s.sent == [["a", "b", "c", "d"]]
    s.clock.advance(1.9)
    second = s.call("f")
    await settle()
    assert s.sent == [["a", "b", "c", "d"]]
    s.clock.advance(0.2)
    assert s.sent == [["a", "b", "c", "d"], ["e", "f"]], "four evaluations at one a second: half of them are done"
    while s.pool.batches:
        s.pool.finish()
    await running, await first, await second


async def test_a_batch_that_was_sent_ahead_is_half_done_counted_from_its_own_start() -> None:
    s = await stage(Bounds(max_batch_items=4))
    warm = s.call("w")
    await settle()
    s.pool.finish(busy=1.0)
    await warm
    calls = [s.call(*"abcdefgh"), s.call("i")]
    await settle()
    assert s.sent == [list("abcd"), list("efgh")]
    s.clock.advance(4.0)
    s.pool.finish(busy=4.0)
    assert s.sent == [list("efgh")]
    s.clock.advance(1.9)
    assert s.sent == [list("efgh")]
    s.clock.advance(0.2)
    assert s.sent == [list("efgh"), ["i"]]
    while s.pool.batches:
        s.pool.finish()
    for call in calls:
        await call


async def test_a_full_batch_is_sent_ahead_at_once() -> None:
    s = await stage(Bounds(max_batch_items=2))
    warm = s.call("w")
    await settle()
    s.pool.finish(busy=1.0)
    await warm
    calls = [s.call("a", "b"), s.call("c", "d"), s.call("e", "f")]
    await settle()
    assert s.sent == [["a", "b"], ["c", "d"]]
    while s.pool.batches:
        s.pool.finish()
    for call in calls:
        await call


async def test_a_lost_worker_fails_what_it_held_and_nothing_else() -> None:
    s = await stage(Bounds(max_batch_items=1), workers=2)
    states = []
    s.engine.on_state_change(states.append)
    calls = [s.call(name) for name in "abcde"]
    await settle()
    held = [item.input.image.decode() for worker, batch in s.pool.batches if worker == 0 for item in batch.items]
    assert held == ["a", "c"]
    s.pool.down(0, retry_after=4.0)
    while s.pool.batches:
        s.pool.finish()
    for name, call in zip("abcde", calls, strict=True):
        if name in held:
            with pytest.raises(Unavailable) as caught:
                await call
            assert (caught.value.reason, caught.value.retry_after) == ("WORKER_LOST", 4.0)
        else:
            assert labels(await call) == [name]
    assert states == []


async def test_a_call_keeps_the_results_that_came_before_the_loss() -> None:
    s = await stage(Bounds(max_batch_items=1))
    call = s.call("a", "b")
    await settle()
    s.pool.finish()
    s.pool.down()
    first, second = await call
    assert labels([first]) == ["a"]
    assert (second.error.reason, second.error.retry_delay.seconds) == ("WORKER_LOST", 2)


async def test_after_the_last_worker_is_lost_new_calls_are_refused_and_waiting_ones_wait_for_the_next() -> None:
    s = await stage(Bounds(max_batch_items=1))
    states = []
    s.engine.on_state_change(states.append)
    calls = [s.call("a"), s.call("b"), s.call("c")]
    await settle()
    s.pool.down(retry_after=2.5)
    with pytest.raises(Unavailable) as caught:
        await s.call("d")
    assert (caught.value.reason, caught.value.retry_after) == ("WORKER_LOST", 2.5)
    s.pool.up()
    assert s.sent == [["c"]]
    s.pool.finish()
    assert labels(await calls[2]) == ["c"]
    for call in calls[:2]:
        with pytest.raises(Unavailable):
            await call
    assert states == [State.UNAVAILABLE, State.READY]


async def test_waiting_calls_are_let_go_when_the_worker_cannot_be_brought_back() -> None:
    s = await stage(Bounds(max_batch_items=1))
    calls = [s.call("a"), s.call("b"), s.call("c")]
    await settle()
    s.pool.down()
    s.pool.down()
    for call in calls:
        with pytest.raises(Unavailable):
            await call


async def test_what_a_lost_worker_says_is_not_heard() -> None:
    s = await stage()
    call = s.call("a")
    await settle()
    worker, batch = s.pool.batches[0]
    s.pool.down()
    s.pool.give_result(worker, batch.items[0])
    s.pool.end(worker, batch)
    with pytest.raises(Unavailable):
        await call


async def test_a_silent_worker_is_killed_once_and_a_slow_one_that_speaks_is_not() -> None:
    s = await stage(Bounds(max_batch_items=2), stuck_after=60.0)
    call = s.call("a", "b")
    await settle()
    s.clock.advance(59.0)
    worker, batch = s.pool.batches[0]
    s.pool.give_result(worker, batch.items[0])
    s.clock.advance(59.0)
    assert s.pool.killed == []
    s.clock.advance(1.0)
    assert s.pool.killed == [0]
    s.clock.advance(1.0)
    assert s.pool.killed == [0]
    s.pool.down()
    assert (await call)[1].error.reason == "WORKER_LOST"


async def test_an_idle_worker_may_be_silent_for_ever() -> None:
    s = await stage(stuck_after=60.0)
    s.clock.advance(10000.0)
    call = s.call("a")
    await settle()
    s.clock.advance(59.0)
    assert s.pool.killed == []
    s.pool.finish()
    await call
