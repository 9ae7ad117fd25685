"""Ends that come from around the work: no room for its results, a start that fails, a worker that stops for good."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakeClock, FakePool, settle, spec_of, stage

from whylight.engine import Bounds, Engine, State, Work
from whylight.engine.pool import WorkerStartError
from whylight.engine.work import AnswerRoom
from whylight.errors import InvalidInput, Unavailable
from whylight.v1 import explanation_pb2 as v1


async def test_a_call_whose_results_outgrow_their_room_fails_at_once_and_the_rest_is_taken_back() -> None:
    s = await stage(Bounds(max_batch_items=2))
    inputs = [v1.Input(image=name.encode()) for name in "abcdefgh"]
    room = AnswerRoom(150)
    call = asyncio.ensure_future(s.engine.explain(Work(spec_of("grad-cam"), inputs, room=room)))
    await settle()
    s.pool.finish()  # two small results
    for item in s.pool.batches[0][1].items:
        s.pool.give_result(0, item, label="x" * 100)
    with pytest.raises(InvalidInput) as caught:
        await call
    assert caught.value.reason == "RESPONSE_TOO_LARGE"
    assert s.engine.queued == s.engine.in_flight == 0
    assert len(s.pool.cancelled) == 2, "those of the batch after it are recalled"


async def test_all_work_of_a_call_shares_one_room() -> None:
    s = await stage()
    room = AnswerRoom(100)
    calls = [
        asyncio.ensure_future(s.engine.explain(Work(spec_of(method), [v1.Input(image=b"a" * 50)], room=room)))
        for method in ("one", "two", "three")
    ]
    await settle()
    while s.pool.batches:
        s.pool.finish()
        await settle()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(outcome, InvalidInput) for outcome in outcomes] == [False, True, True]


async def test_a_question_that_a_stopped_worker_leaves_open_is_answered() -> None:
    s = await stage(pool=FakePool(hold_plans=True))
    call = s.call("a")
    await settle()
    await s.engine.drain()
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.reason == "DRAINING"


async def test_when_one_worker_cannot_start_what_the_others_hold_is_let_go() -> None:
    """The pool stops them all then: a call that waited for them would wait for ever."""
    refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class HalfPool(FakePool):
        async def start(self, listener) -> None:
            await super().start(listener)
            await refused

    pool = HalfPool()
    engine = Engine(pool, clock=FakeClock())
    starting = asyncio.ensure_future(engine.start())
    await settle()
    call = asyncio.ensure_future(engine.explain(Work(spec_of("grad-cam"), [v1.Input(image=b"a")])))
    await settle()
    assert engine.in_flight == 1
    refused.set_exception(WorkerStartError("worker 1 cannot start"))
    with pytest.raises(WorkerStartError):
        await starting
    with pytest.raises(Unavailable):
        await call
    assert engine.state is State.STOPPED
