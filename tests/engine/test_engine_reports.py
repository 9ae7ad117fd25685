"""What whoever measures is told: every batch once with its fill and calls, every item once with its end and times."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakePool, Stage, settle, spec_of, stage

from whylight.engine import BatchReport, Bounds, ItemReport, Work
from whylight.errors import Code, InvalidInput, Overloaded
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.errors import error_to_proto
from whylight.worker.v1 import worker_pb2


async def measured(bounds: Bounds, **options: object) -> tuple[Stage, list[BatchReport], list[ItemReport]]:
    s = await stage(bounds, **options)
    batches: list[BatchReport] = []
    ends: list[ItemReport] = []
    s.engine.on_batch(batches.append)
    s.engine.on_end(ends.append)
    return s, batches, ends


def traced(s: Stage, trace: str | None, *names: str) -> asyncio.Task[list[v1.InputResult]]:
    inputs = [v1.Input(image=name.encode()) for name in names]
    return asyncio.ensure_future(s.engine.explain(Work(spec_of("grad-cam", "saliency"), inputs, trace=trace)))


async def test_a_batch_tells_how_full_it_was_and_whose_it_was() -> None:
    s, batches, _ = await measured(Bounds(max_batch_items=8, max_delay=0.5))
    calls = [traced(s, "one", "a", "b"), traced(s, None, "c"), traced(s, "two", "d")]
    await settle()
    s.clock.advance(0.5)
    s.clock.advance(2.0)
    s.pool.finish(busy=1.5)
    await asyncio.gather(*calls)
    (report,) = batches
    assert (report.model, report.methods, report.size, report.worker, report.long) == (
        "m",
        ("grad-cam", "saliency"),
        4,
        0,
        False,
    )
    assert report.queue_times == (0.5,) * 4
    assert (report.busy_time, report.flight_time) == (1.5, 2.0)
    assert report.fill == 0.5
    assert report.traces == ("one", "two")


async def test_the_fill_is_that_of_the_bound_that_is_nearest() -> None:
    s, batches, _ = await measured(Bounds(max_batch_items=8, max_batch_cost=10.0), pool=FakePool(cost=4.0))
    calls = [s.call("a", "b", "c")]
    await settle()
    s.pool.finish()
    s.pool.finish()
    await asyncio.gather(*calls)
    assert [report.fill for report in batches] == [0.8, 0.4]


async def test_an_item_that_is_explained_tells_its_times() -> None:
    s, _, ends = await measured(Bounds(max_delay=0.5))
    call = traced(s, "one", "a")
    await settle()
    s.clock.advance(0.5)
    s.clock.advance(3.0)
    worker, batch = s.pool.batches[0]
    s.pool.give_result(worker, batch.items[0], waited=1.0)
    await call
    assert ends == [
        ItemReport("m", ("grad-cam", "saliency"), 0, "", queue_time=1.5, compute_time=2.0, cost=1.0, trace="one")
    ]


async def test_an_item_that_fails_tells_the_code_and_the_reason() -> None:
    s, _, ends = await measured(Bounds())
    call = s.call("a", "b")
    await settle()
    s.clock.advance(2.0)
    worker, batch = s.pool.batches[0]
    error = error_to_proto(InvalidInput("no picture", reason="IMAGE_UNREADABLE"))
    refused = worker_pb2.ItemResult(item_id=batch.items[0].item_id, result=v1.InputResult(error=error))
    s.engine.worker_said(worker, worker_pb2.WorkerFrame(result=refused))
    s.pool.give_result(worker, batch.items[1])
    await call
    assert [(end.code, end.reason) for end in ends] == [(Code.INVALID_ARGUMENT, "IMAGE_UNREADABLE"), (0, "")]
    assert [(end.queue_time, end.compute_time) for end in ends] == [(0.0, 2.0)] * 2


async def test_deadlines_losses_and_callers_that_leave_are_ends_too() -> None:
    s, _, ends = await measured(Bounds(max_batch_items=1))
    late = s.call("a", timeout=1.0)
    await settle()
    gone, lost = s.call("b"), s.call("c")
    await settle()
    assert s.sent == [["a"], ["b"]]
    s.clock.advance(1.0)
    gone.cancel()
    lost_too = s.call("d")
    await settle()
    s.pool.finish()
    await settle()
    assert s.sent == [["b"], ["c"]]
    s.pool.down()
    await asyncio.gather(late, gone, lost, return_exceptions=True)
    assert [(end.code, end.reason) for end in ends] == [
        (Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (Code.CANCELLED, "CANCELLED"),
        (Code.UNAVAILABLE, "WORKER_LOST"),
    ]
    lost_too.cancel()
    await settle()
    assert (ends[-1].code, ends[-1].compute_time) == (Code.CANCELLED, 0.0), "it never left"


async def test_what_is_refused_for_want_of_room_ends_and_what_has_no_plan_is_not_told() -> None:
    s, _, ends = await measured(Bounds(max_batch_items=2, max_queued_items=2), pool=FakePool())
    first = [s.call("a", "b"), s.call("c", "d")]
    await settle()
    waiting = s.call("e", "f")
    await settle()
    with pytest.raises(Overloaded):
        await s.call("g", "h")
    with pytest.raises(InvalidInput):
        await s.call("i", method="wrong")
    assert [(end.code, end.reason) for end in ends] == [(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")] * 2
    for call in (*first, waiting):
        call.cancel()
    await settle()
    assert len(ends) == 8


async def test_a_listener_that_raises_takes_nothing_from_others() -> None:
    s, _, ends = await measured(Bounds())
    s.engine.on_end(lambda report: 1 / 0)
    later: list[ItemReport] = []
    s.engine.on_end(later.append)
    call = s.call("a")
    await settle()
    s.pool.finish()
    assert len(await call) == 1
    assert ends == later
    assert len(ends) == 1
