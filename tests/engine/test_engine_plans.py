"""Plans: asked of a worker once, remembered when they are valid, shared by those who ask at the same time."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakePool, labels, settle, spec_of, stage

from whylight.engine.plan import Planner
from whylight.errors import DeadlineExceeded, InvalidInput, Unavailable
from whylight.worker.v1 import worker_pb2


async def test_a_wrong_plan_fails_the_call_with_the_workers_reason_and_sends_no_work() -> None:
    s = await stage()
    with pytest.raises(InvalidInput) as caught:
        await s.call("a", method="wrong")
    assert [violation.field for violation in caught.value.violations] == ["methods[0].name"]
    assert s.sent == []
    assert s.engine.in_flight == s.engine.queued == 0


async def test_two_callers_with_the_same_wrong_plan_get_errors_of_their_own() -> None:
    """Callers may change field paths: a shared exception would be changed twice."""
    s = await stage(pool=FakePool(hold_plans=True))
    calls = [s.call("a", method="wrong"), s.call("b", method="wrong")]
    await settle()
    s.pool.answer_plan()
    for call in calls:
        with pytest.raises(InvalidInput) as caught:
            await call
        assert caught.value.within("call").violations[0].field == "call.methods[0].name"


async def test_a_plan_is_asked_for_once_and_again_only_after_a_refusal_or_a_new_worker() -> None:
    pool = FakePool(hold_plans=True)
    s = await stage(pool=pool)
    calls = [s.call("a"), s.call("b")]
    await settle()
    assert len(pool.plans) == 1
    pool.answer_plan()
    await settle()
    calls.append(s.call("c"))
    await settle()
    assert pool.plans == []
    pool.up(0)
    calls.append(s.call("d"))
    await settle()
    assert len(pool.plans) == 1
    pool.answer_plan()
    refused = s.call("e", method="wrong")
    await settle()
    assert len(pool.plans) == 1
    pool.answer_plan()
    with pytest.raises(InvalidInput):
        await refused
    refused = s.call("f", method="wrong")
    await settle()
    assert len(pool.plans) == 1
    pool.answer_plan()
    with pytest.raises(InvalidInput):
        await refused
    for call in calls:
        call.cancel()


async def test_one_caller_going_away_does_not_take_the_plan_from_another() -> None:
    s = await stage(pool=FakePool(hold_plans=True))
    first, second = s.call("a"), s.call("b")
    await settle()
    first.cancel()
    await settle()
    s.pool.answer_plan()
    await settle()
    s.pool.finish()
    assert labels(await second) == ["b"]


async def test_old_plans_make_room_for_new_ones() -> None:
    sent = []

    def send(question: worker_pb2.PlanRequest) -> int:
        sent.append(question)
        return 0

    planner = Planner(send, capacity=2)

    async def plan(name: str) -> None:
        task = asyncio.ensure_future(planner.plan(spec_of(name)))
        await settle()
        if not task.done():
            planner.answered(worker_pb2.PlanReply(request_id=sent[-1].request_id, cost=1.0))
        await task

    for name in ("a", "b", "a", "c", "a", "b"):
        await plan(name)
    assert [question.spec.methods[0].name for question in sent] == ["a", "b", "c", "b"]
    assert len(planner) == 2


async def test_a_plan_that_is_not_answered_in_time_is_the_deadlines_fault() -> None:
    s = await stage(pool=FakePool(hold_plans=True))
    call = s.call("a", timeout=1.0)
    await settle()
    s.clock.advance(1.0)
    with pytest.raises(DeadlineExceeded):
        await call


async def test_a_worker_lost_while_planning_fails_the_call() -> None:
    s = await stage(pool=FakePool(hold_plans=True))
    calls = [s.call("a"), s.call("b")]
    await settle()
    s.pool.down(retry_after=3.0)
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call
        assert (caught.value.reason, caught.value.retry_after) == ("WORKER_LOST", 3.0)
