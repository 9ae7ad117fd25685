"""Progress on its way through the engine: to the caller of the input it is about, and only while that waits."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import Stage, settle, spec_of, stage

from whylight.engine import Watch, Work
from whylight.errors import DeadlineExceeded
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2

SPEC = v1.ProgressSpec(running_maps=True)


class Call:
    """A call that is watched."""

    def __init__(self, s: Stage, *names: str, timeout: float | None = None) -> None:
        self.told: list[tuple[int, int]] = []
        watch = Watch(SPEC, lambda index, news: self.told.append((index, news.done)))
        deadline = None if timeout is None else s.clock.now() + timeout
        inputs = [v1.Input(image=name.encode()) for name in names]
        work = Work(spec_of("rise"), inputs, deadline=deadline, watch=watch)
        self.task = asyncio.ensure_future(s.engine.explain(work))


def say(s: Stage, item: int, done: int) -> None:
    s.pool.listener.worker_said(
        0, worker_pb2.WorkerFrame(progress=worker_pb2.ItemProgress(item_id=item, done=done, total=9))
    )


async def test_it_is_told_to_the_caller_of_the_input_with_its_place() -> None:
    s = await stage()
    first, second = Call(s, "a", "b"), Call(s, "c")
    plain = s.call("d", method="rise")
    await settle()
    done = 0
    while s.pool.batches:
        for item in reversed(s.pool.batches[0][1].items):
            say(s, item.item_id, done := done + 1)
        s.pool.finish()
    for call in (first.task, second.task, plain):
        await call
    assert (first.told, second.told) == ([(1, 1), (0, 2)], [(0, 3)])
    assert done == 4


async def test_who_watches_shares_batches_with_who_does_not_and_only_the_item_says_so() -> None:
    s = await stage()
    blockers = [s.call("x"), s.call("y")]
    await settle()
    watched, plain = Call(s, "a"), s.call("b", method="rise")
    await settle()
    s.pool.finish()
    s.pool.finish()
    ((_, batch),) = s.pool.batches
    assert [(item.input.image, item.HasField("progress")) for item in batch.items] == [(b"a", True), (b"b", False)]
    assert batch.items[0].progress == SPEC
    s.pool.finish()
    for call in (*blockers, watched.task, plain):
        await call


async def test_nothing_is_told_after_the_result() -> None:
    s = await stage()
    call = Call(s, "a", "b")
    await settle()
    (worker, batch) = s.pool.batches[0]
    say(s, batch.items[0].item_id, 1)
    s.pool.give_result(worker, batch.items[0])
    say(s, batch.items[0].item_id, 2)
    say(s, batch.items[1].item_id, 3)
    s.pool.give_result(worker, batch.items[1])
    s.pool.end(worker, batch)
    say(s, batch.items[1].item_id, 4)
    await call.task
    assert call.told == [(0, 1), (1, 3)]


async def test_nothing_is_told_to_who_is_late_or_went_away() -> None:
    s = await stage()
    late, gone = Call(s, "a", timeout=1.0), Call(s, "b")
    await settle()
    ids = [item.item_id for _, batch in s.pool.batches for item in batch.items]
    s.clock.advance(1.0)
    gone.task.cancel()
    await settle()
    for id in (*ids, 999):
        say(s, id, 1)
    with pytest.raises(DeadlineExceeded):
        await late.task
    assert late.told == gone.told == []


async def test_it_is_a_sign_of_life() -> None:
    s = await stage(stuck_after=10.0)
    call = Call(s, "a")
    await settle()
    ((_, batch),) = s.pool.batches
    for done in range(5):
        s.clock.advance(8.0)
        say(s, batch.items[0].item_id, done)
    assert s.pool.killed == []
    s.clock.advance(11.0)
    assert s.pool.killed == [0]
    s.pool.finish()
    await call.task
