"""Long work in the engine: it gathers, goes beside batches and not before them, and is stuck only when it is silent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_fakes import FakePool, Stage, settle, spec_of, stage

from whylight.engine import Bounds, Work
from whylight.engine.roster import LONG_OUTSTANDING
from whylight.engine.work import Watch
from whylight.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2


def make(
    on: Stage, *names: str, watch: Watch | None = None, caller: str | None = None, **options: float
) -> asyncio.Task[list[v1.InputResult]]:
    spec = spec_of("climbing", **options)
    spec.kind = catalog_pb2.METHOD_KIND_SYNTHESIS
    inputs = [v1.Input(image=name.encode()) for name in names]
    pictures = [v1.Input(image=b"start")]
    work = Work(spec, inputs, watch=watch, pictures=pictures, preview_interval=7, caller=caller)
    return asyncio.ensure_future(on.engine.explain(work))


async def test_calls_that_come_together_are_one_batch_of_bounded_size():
    on = await stage()
    calls = [make(on, f"a{number}") for number in range(18)]
    await settle()
    assert [len(names) for names in on.sent] == [16]  # full
    on.clock.advance(0.05)
    assert [len(names) for names in on.sent] == [16, 2]
    item = on.pool.batches[0][1].items[0]
    assert [picture.image for picture in on.pool.batches[0][1].picture_sets[item.picture_set - 1].pictures] == [
        b"start"
    ]
    assert item.preview_interval == 7
    on.pool.finish()
    on.pool.finish()
    assert all([await call for call in calls])


async def test_batches_go_beside_jobs_as_if_there_were_none():
    on = await stage()
    jobs = [make(on, f"job{number}", steps=number) for number in range(LONG_OUTSTANDING + 1)]
    await settle()
    on.clock.advance(0.05)
    assert len(on.sent) == LONG_OUTSTANDING
    call = on.call("x")
    await settle()
    assert on.sent[-1] == ["x"]
    worker, batch = on.pool.batches.pop()
    on.pool.give_result(worker, batch.items[0])
    on.pool.end(worker, batch)
    assert await call
    on.pool.finish()  # a job: its place goes to the one that waits
    assert on.sent[-1] == [f"job{LONG_OUTSTANDING}"]
    for _ in range(LONG_OUTSTANDING):
        on.pool.finish()
    await asyncio.gather(*jobs)


async def test_a_job_is_stuck_only_when_its_worker_is_silent():
    on = await stage(stuck_after=100.0)
    job = make(on, "a")
    await settle()
    on.clock.advance(0.05)
    for _ in range(50):
        on.clock.advance(90.0)
        on.engine.worker_said(0, worker_pb2.WorkerFrame(alive=worker_pb2.Alive()))
    assert on.pool.killed == []
    on.clock.advance(190.0)
    assert on.pool.killed == [0]
    on.pool.down()
    with pytest.raises(Unavailable):
        await job


async def test_a_caller_that_goes_away_takes_back_its_picture_only():
    on = await stage()
    one, other = make(on, "a"), make(on, "b")
    await settle()
    on.clock.advance(0.05)
    assert on.sent == [["a", "b"]]
    one.cancel()
    await settle()
    assert [id for _, id in on.pool.cancelled] == [on.pool.batches[0][1].items[0].item_id]
    on.pool.finish()
    assert len(await other) == 1


async def test_previews_reach_who_watches_and_nobody_behind_the_result():
    on = await stage(pool=FakePool(1))
    shown: list[Any] = []
    watch = Watch(v1.ProgressSpec(), lambda *_: None, lambda index, preview: shown.append((index, preview.step)))
    job = make(on, "a", "b", watch=watch)
    await settle()
    on.clock.advance(0.05)
    second = on.pool.batches[0][1].items[1].item_id
    preview = worker_pb2.WorkerFrame(preview=worker_pb2.ItemPreview(item_id=second, step=5))
    on.engine.worker_said(0, preview)
    on.pool.finish()
    on.engine.worker_said(0, preview)
    await job
    assert shown == [(1, 5)]


async def test_a_drain_lets_waiting_jobs_leave_at_once():
    on = await stage()
    job = make(on, "a")
    await settle()
    assert on.sent == []
    draining = asyncio.ensure_future(on.engine.drain(30.0))
    await settle()
    assert on.sent == [["a"]]
    on.pool.finish()
    await job
    await draining


async def test_what_may_wait_and_what_one_call_may_cost_is_bounded_and_the_refusal_says_where():
    bounds = Bounds(long_call_cost=100.0, long_queued_cost=150.0)
    on = await stage(bounds, pool=FakePool(cost=60.0))
    with pytest.raises(InvalidInput) as caught:
        await make(on, "a", "b")
    assert (caught.value.reason, caught.value.violations[0].field) == ("REQUEST_TOO_COSTLY", "targets")
    waiting = [make(on, name) for name in "abcd"]
    await settle()
    assert [task.done() for task in waiting] == [False, False, True, True], "the third is above what may wait"
    with pytest.raises(Overloaded) as full:
        await waiting[2]
    assert full.value.reason == "QUEUE_FULL"
    dear = await stage(bounds, pool=FakePool(cost=101.0))
    with pytest.raises(InvalidInput) as caught:
        await make(dear, "a")
    assert (caught.value.reason, caught.value.violations[0].field) == ("REQUEST_TOO_COSTLY", "method.options")
    waiting[3].cancel()
    on.clock.advance(0.05)
    on.pool.finish()
    assert [len(await task) for task in waiting[:2]] == [1, 1]


async def test_a_call_takes_no_longer_than_the_server_allows_though_its_caller_would_wait():
    on = await stage(Bounds(long_call_seconds=100.0))
    job = make(on, "a")
    await settle()
    on.clock.advance(99.0)
    assert not job.done()
    on.clock.advance(1.0)
    with pytest.raises(DeadlineExceeded, match="100 seconds") as caught:
        await job
    assert caught.value.reason == "CALL_TOO_LONG"
    assert len(on.pool.cancelled) == 1
    short = asyncio.ensure_future(
        on.engine.explain(Work(spec_of("climbing"), [v1.Input(image=b"a")], deadline=on.clock.now() + 5.0))
    )
    await settle()
    on.clock.advance(5.0)
    with pytest.raises(DeadlineExceeded) as caught:
        await short
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_one_caller_with_many_jobs_keeps_no_other_waiting_for_all_of_them():
    on = await stage(pool=FakePool(cost=1000.0))
    many = [make(on, f"many{number}", caller="many", steps=number) for number in range(12)]
    await settle()
    on.clock.advance(0.05)
    one = make(on, "one", caller="one", steps=100)
    await settle()
    on.clock.advance(0.05)
    order = []
    while on.pool.batches:
        order += [item.input.image.decode() for item in on.pool.finish().items]
        await settle()
    assert order.index("one") <= LONG_OUTSTANDING + 1
    await asyncio.gather(*many, one)
