"""Who is served when, seen from the callers: a large call, or many of them, delays another one by a batch or two."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakePool, Stage, settle, spec_of, stage
from hypothesis import given, settings
from hypothesis import strategies as st

from whylight.engine import Bounds, Engine, Work
from whylight.errors import DeadlineExceeded
from whylight.priority import Priority
from whylight.v1 import explanation_pb2 as v1


def ask(
    engine: Engine,
    *names: str,
    caller: str | None = None,
    method: str = "grad-cam",
    priority: Priority = Priority.INTERACTIVE,
    deadline: float | None = None,
) -> asyncio.Task[list[v1.InputResult]]:
    inputs = [v1.Input(image=name.encode()) for name in names]
    work = Work(spec_of(method), inputs, caller=caller, priority=priority, deadline=deadline)
    return asyncio.ensure_future(engine.explain(work))


async def batches_until(s: Stage, call: asyncio.Task[object]) -> int:
    """Finish batches, one after the other and each in a second, until a call is answered; return how many it took."""
    count = 0
    while not call.done():
        s.clock.advance(1.0)
        s.pool.finish(busy=1.0)
        count += 1
        await settle()
    return count


@pytest.mark.parametrize("method", ["grad-cam", "saliency"])
@pytest.mark.parametrize("callers", [("crowd", "one"), ("same", "same"), (None, None)])
async def test_a_call_with_256_inputs_delays_a_small_one_by_two_batches_at_most(
    method: str, callers: tuple[str | None, str | None]
) -> None:
    s = await stage(Bounds(max_batch_items=32))
    large = ask(s.engine, *(f"{n}" for n in range(256)), caller=callers[0])
    await settle()
    s.clock.advance(1.0)
    s.pool.finish(busy=1.0)
    await settle()
    small = ask(s.engine, "small", caller=callers[1], method=method)
    await settle()
    # The batch that computes and the one that is decoded left before it came; then it is its turn, or the next one.
    assert await batches_until(s, small) <= 2 + 2
    assert await batches_until(s, large) >= 3
    assert len(await large) == 256


async def test_a_caller_who_floods_a_plan_keeps_no_other_caller_of_it_waiting() -> None:
    s = await stage(Bounds(max_batch_items=32))
    flood = [ask(s.engine, f"{n}", caller="flood") for n in range(2000)]
    await settle()
    for round in range(5):
        small = ask(s.engine, f"small {round}", caller="one")
        await settle()
        assert await batches_until(s, small) <= 2 + 2
    for call in flood:
        call.cancel()
    await settle()
    assert s.engine.queued == 0


async def test_interactive_calls_go_before_bulk_ones_which_are_not_starved() -> None:
    s = await stage(Bounds(max_batch_items=4, bulk_share=0.25))
    bulk = [ask(s.engine, f"b{n}", caller="bulk", priority=Priority.BULK) for n in range(400)]
    await settle()
    quick = [ask(s.engine, f"i{n}", caller="user") for n in range(400)]
    await settle()
    for _ in range(42):
        s.clock.advance(1.0)
        s.pool.finish(busy=1.0)
        await settle()
    done = sum(call.done() for call in quick), sum(call.done() for call in bulk)
    assert done[0] >= 112
    assert done[1] >= 32
    for call in (*bulk, *quick):
        call.cancel()
    await settle()


async def test_what_cannot_be_met_is_refused_at_once_and_not_when_it_is_too_late() -> None:
    s = await stage(Bounds(max_batch_items=4))
    for _ in range(3):
        warm = ask(s.engine, *"abcd")
        await settle()
        s.pool.finish(busy=4.0)  # one evaluation a second
        await warm
    crowd = ask(s.engine, *(f"{n}" for n in range(100)), caller="one")
    await settle()
    before = s.clock.now()
    with pytest.raises(DeadlineExceeded) as caught:
        await ask(s.engine, *(f"{n}" for n in range(40)), caller="other", deadline=before + 39.0)
    assert s.clock.now() == before
    assert caught.value.reason == "DEADLINE_CANNOT_BE_MET"
    assert float(caught.value.metadata["expected_wait_seconds"]) == pytest.approx(80.0)
    fits = ask(s.engine, *(f"{n}" for n in range(40)), caller="other", deadline=before + 41.0)
    await settle()
    assert not fits.done(), "what was measured may be twice too slow"
    for call in (crowd, fits):
        call.cancel()
    await settle()


@settings(max_examples=30, deadline=None)
@given(
    inputs=st.integers(1, 40),
    seconds=st.floats(0.01, 100.0),
    spare=st.floats(0.0, 1.0),
    workers=st.integers(1, 3),
)
def test_nothing_is_refused_that_an_idle_server_does_in_time(
    inputs: int, seconds: float, spare: float, workers: int
) -> None:
    async def play() -> None:
        s = await stage(Bounds(max_batch_items=8), pool=FakePool(workers))
        for _ in range(4):
            warm = ask(s.engine, "a")
            await settle()
            s.pool.finish(busy=seconds)
            await warm
        names = [f"{n}" for n in range(inputs)]
        call = ask(s.engine, *names, deadline=s.clock.now() + inputs * seconds + spare + 1e-3)
        await settle()
        assert not call.done()
        while not call.done():
            _, batch = s.pool.batches[0]
            s.pool.finish(busy=seconds * len(batch.items))
            await settle()
        assert len(await call) == inputs

    asyncio.run(play())
