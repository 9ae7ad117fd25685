"""What becomes of calls: results, seeds, a full queue, deadlines, the end of the engine."""

from __future__ import annotations

import asyncio
import math

import pytest
from engine_fakes import FakePool, labels, settle, spec_of, stage

from whylight.engine import Bounds, Engine, State, Work
from whylight.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.scalars import duration_to_seconds
from whylight.worker.v1 import worker_pb2


async def test_every_input_gets_its_own_result_in_the_order_of_the_call() -> None:
    s = await stage(Bounds(max_batch_items=2))
    call = s.call("a", "b", "c")
    await settle()
    assert s.sent == [["a", "b"], ["c"]]
    s.pool.finish()
    s.pool.finish()
    assert labels(await call) == ["a", "b", "c"]


async def test_calls_of_different_clients_share_a_batch_even_with_different_targets() -> None:
    s = await stage()
    first = s.call("first")
    await settle()
    calls = [s.call("a"), s.call("b", targets=1), s.call("c", targets=2)]
    await settle()
    assert s.sent == [["first"], ["a"]], "fed ahead by one batch"
    s.pool.finish()
    s.pool.finish()
    assert s.sent == [["b", "c"]]
    s.pool.finish()
    assert [labels(await call) for call in (first, *calls)] == [["first"], ["a"], ["b"], ["c"]]


async def test_calls_that_differ_in_plan_or_shape_never_share_a_batch() -> None:
    s = await stage(Bounds(max_batch_items=8))
    blockers = [s.call("x"), s.call("y")]
    await settle()
    spec = spec_of("grad-cam")
    tensors = [
        v1.Input(tensor=v1.Tensor(dtype=dtype, shape=shape, data=b""))
        for dtype, shape in (
            (v1.DATA_TYPE_FLOAT32, (3, 224, 224)),
            (v1.DATA_TYPE_FLOAT32, (3, 256, 256)),
            (v1.DATA_TYPE_FLOAT16, (3, 224, 224)),
            (v1.DATA_TYPE_UINT8, (100, 100, 3)),
            (v1.DATA_TYPE_UINT8, (50, 50, 3)),
        )
    ]
    loop = asyncio.ensure_future(s.engine.explain(Work(spec, [*tensors, v1.Input(image=b"i")])))
    other = asyncio.ensure_future(s.engine.explain(Work(spec_of("grad-cam", steps=2.0), [v1.Input(image=b"o")])))
    await settle()
    batches = []
    while s.pool.batches:
        batches.append(len(s.pool.finish().items))
    assert sorted(batches) == [1, 1, 1, 1, 1, 1, 3], (
        "x and y, three shapes of floats, the other option; pictures go together"
    )
    await loop
    await other
    for blocker in blockers:
        await blocker


async def test_queue_time_counts_from_the_call_to_the_start_of_the_batch_in_the_worker() -> None:
    s = await stage()
    calls = [s.call("x"), s.call("y"), s.call("z")]
    await settle()
    s.clock.advance(3.0)
    s.pool.finish()
    s.pool.finish()
    worker, batch = s.pool.batches[-1]
    s.pool.give_result(worker, batch.items[0], waited=0.25)
    execution = (await calls[2])[0].explained.explanations[0].execution
    assert duration_to_seconds(execution.queue_time) == pytest.approx(3.25)


async def test_an_item_that_the_worker_forgets_fails_and_does_not_hang() -> None:
    s = await stage()
    call = s.call("a", "b")
    await settle()
    worker, batch = s.pool.batches.pop()
    s.pool.give_result(worker, batch.items[1])
    s.pool.end(worker, batch)
    results = await call
    assert results[0].error.reason == "INTERNAL"
    assert results[1].explained.explanations[0].target_label == "b"


async def test_results_that_nobody_asked_for_are_dropped() -> None:
    s = await stage()
    call = s.call("a")
    await settle()
    worker, batch = s.pool.batches[0]
    s.pool.give_result(worker, worker_pb2.Item(item_id=999), label="stray")
    s.pool.give_result(worker, batch.items[0])
    s.pool.give_result(worker, batch.items[0], label="twice")
    s.pool.finish()
    assert labels(await call) == ["a"]


async def test_a_result_for_an_item_that_no_worker_has_is_dropped() -> None:
    s = await stage(Bounds(max_batch_items=1))
    calls = [s.call("a"), s.call("b"), s.call("c")]
    await settle()
    last = max(item.item_id for _, batch in s.pool.batches for item in batch.items)
    s.pool.give_result(0, worker_pb2.Item(item_id=last + 1), label="from nowhere")
    while s.pool.batches:
        s.pool.finish()
    assert [labels(await call) for call in calls] == [["a"], ["b"], ["c"]]


async def test_work_that_a_lost_worker_held_is_no_debt_of_those_who_come_after() -> None:
    s = await stage(Bounds(max_batch_items=1, max_delay=1.0))
    lost = s.call("lost", method="a", targets=64)
    await settle()
    s.clock.advance(1.0)
    s.pool.down()
    with pytest.raises(Unavailable):
        await lost
    s.pool.up()
    calls = [s.call("one", method="a"), s.call("two", method="b")]
    await settle()
    s.clock.advance(1.0)
    assert s.sent == [["one"], ["two"]]
    while s.pool.batches:
        s.pool.finish()
    for call in calls:
        await call


async def test_the_reason_why_a_batch_closed_is_reported() -> None:
    s = await stage(Bounds(max_batch_items=2))
    reports = []
    s.engine.on_batch(reports.append)
    call = s.call("a", "b", "c", method="layer-cam")
    await settle()
    s.clock.advance(0.5)
    s.pool.finish(busy=0.25)
    s.pool.finish()
    await call
    assert [(r.model, r.methods, r.cost, r.reason.value, len(r.queue_times)) for r in reports] == [
        ("m", ("layer-cam",), 2.0, "full", 2),
        ("m", ("layer-cam",), 1.0, "worker_free", 1),
    ]
    assert reports[0].busy_time == 0.25


async def test_a_listener_that_fails_harms_neither_work_nor_other_listeners() -> None:
    s = await stage()
    reports = []
    s.engine.on_batch(lambda report: 1 / 0)
    s.engine.on_batch(reports.append)
    calls = [s.call("a"), s.call("b"), s.call("c")]
    await settle()
    for _ in range(3):
        if s.pool.batches:
            s.pool.finish()
    assert [labels(await call) for call in calls] == [["a"], ["b"], ["c"]]
    assert reports


async def test_stochastic_work_without_a_seed_gets_one_for_each_input_and_other_work_none() -> None:
    s = await stage(pool=FakePool(stochastic=[True]))
    drawn, given = s.call("a", "b"), s.call("c", "d", seeds=[7])
    await settle()
    while s.pool.batches:
        s.pool.finish()
    assert [result.explained.explanations[0].seed for result in await drawn] == [100, 101]
    assert [result.explained.explanations[0].seed for result in await given] == [7, 7]
    plain = await stage()
    call = plain.call("a", seeds=[7])
    await settle()
    assert not plain.pool.finish().items[0].seeds
    await call


async def test_every_method_of_a_call_has_seeds_of_its_own() -> None:
    s = await stage(pool=FakePool(stochastic=[True, False, True]))
    call = s.call("a", "b", method="rise saliency rise", seeds=[None, 5, 7])
    await settle()
    while s.pool.batches:
        s.pool.finish()
    seeds = [[why.seed for why in result.explained.explanations] for result in await call]
    assert seeds == [[100, 0, 7], [101, 0, 7]]


async def test_equal_lists_of_methods_share_a_batch_and_no_others() -> None:
    s = await stage()
    blockers = [s.call("x"), s.call("y")]
    await settle()
    calls = [s.call(name, method=method) for name, method in (("a", "p q"), ("b", "p"), ("c", "p q"), ("d", "q p"))]
    await settle()
    s.pool.finish()
    s.pool.finish()
    batches = []
    while s.pool.batches:
        batches.append(s.sent[0])
        s.pool.finish()
    assert batches == [["a", "c"], ["b"], ["d"]]
    for call in (*blockers, *calls):
        await call


async def test_many_methods_on_a_large_input_carry_it_once() -> None:
    """Sixteen of 0.6 of the queues' bytes each would never fit, and be told to come again for ever."""
    s = await stage(Bounds(max_batch_bytes=100, max_queued_bytes=100))
    call = s.call("a" * 60, method=" ".join(f"m{index}" for index in range(16)))
    await settle()
    (_, batch), *others = s.pool.batches
    assert (len(batch.spec.methods), len(batch.items), others) == (16, 1, [])
    s.pool.finish()
    await call


async def test_methods_that_cost_too_much_together_are_refused_for_good() -> None:
    """The plan's cost is that of all methods: what could never fit must not be told to come again."""
    s = await stage(Bounds(max_batch_cost=8.0, max_queued_cost=10.0), pool=FakePool(cost=16.0))
    with pytest.raises(InvalidInput) as caught:
        await s.call("a", method="p q")
    assert caught.value.reason == "REQUEST_TOO_COSTLY"


async def test_the_seed_tells_no_two_plans_apart() -> None:
    s = await stage()
    blockers = [s.call("x"), s.call("y")]
    await settle()
    specs = [spec_of("grad-cam") for _ in range(2)]
    specs[0].methods[0].seed = 1
    calls = [asyncio.ensure_future(s.engine.explain(Work(spec, [v1.Input(image=b"a")]))) for spec in specs]
    await settle()
    s.pool.finish()
    s.pool.finish()
    assert s.sent == [["a", "a"]]
    while s.pool.batches:
        s.pool.finish()
    for call in (*blockers, *calls):
        await call


async def test_further_targets_cost_what_the_plan_says() -> None:
    s = await stage(Bounds(max_batch_cost=4.0, max_queued_cost=100.0), pool=FakePool(cost=2.0))
    call = s.call("a", "b", "c", targets=5)
    await settle()
    assert s.sent == [["a"], ["b"]], "each costs 2 + 4 * 0.5 = 4"
    while s.pool.batches:
        s.pool.finish()
    await call


async def test_a_full_queue_refuses_with_a_time_to_come_again_and_keeps_what_it_has() -> None:
    s = await stage(Bounds(max_batch_items=1, max_queued_items=2))
    calls = [s.call("a"), s.call("b"), s.call("c", "d")]
    await settle()
    with pytest.raises(Overloaded) as caught:
        await s.call("e")
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after > 0
    while s.pool.batches:
        s.pool.finish()
    assert [labels(await call) for call in calls] == [["a"], ["b"], ["c", "d"]]


async def test_a_deadline_ends_the_wait_while_a_long_batch_runs() -> None:
    s = await stage()
    long = [s.call("long"), s.call("next")]
    await settle()
    late = s.call("late", timeout=5.0)
    await settle()
    assert s.engine.queued == 1
    s.clock.advance(4.9)
    await settle()
    assert not late.done()
    s.clock.advance(0.2)
    with pytest.raises(DeadlineExceeded):
        await late
    assert s.engine.queued == 0
    while s.pool.batches:
        assert "late" not in [item.input.image for item in s.pool.finish().items]
    for call in long:
        await call


async def test_a_deadline_at_the_worker_recalls_the_item_and_leaves_its_batch_mates() -> None:
    s = await stage()
    first = s.call("first")
    await settle()
    s.pool.batches.clear()
    mates = [s.call("hurried", timeout=5.0), s.call("patient")]
    await settle()
    s.pool.down()
    s.pool.up()
    with pytest.raises(Unavailable):
        await first
    mates = [s.call("hurried", timeout=5.0), s.call("patient")]
    await settle()
    s.clock.advance(5.0)
    with pytest.raises(DeadlineExceeded):
        await mates[0]
    (hurried,) = [item.item_id for _, batch in s.pool.batches for item in batch.items if item.input.image == b"hurried"]
    assert s.pool.cancelled == [(0, hurried)]
    while s.pool.batches:
        s.pool.finish()
    assert labels(await mates[1]) == ["patient"]


async def test_a_deadline_in_the_past_is_refused_before_anything_is_asked() -> None:
    s = await stage()
    with pytest.raises(DeadlineExceeded):
        await s.call("a", timeout=0.0)
    assert s.pool.plans == []


async def test_no_timer_is_left_when_nothing_is_left_to_do() -> None:
    s = await stage()
    call = s.call("a", timeout=5.0)
    await settle()
    s.pool.finish()
    await call
    assert s.clock.pending == 0


async def test_before_a_worker_is_up_calls_are_told_that_models_are_being_loaded() -> None:
    engine = Engine(FakePool(size=0))
    assert engine.state is State.STARTING
    assert engine.catalog is None
    with pytest.raises(Unavailable) as caught:
        await engine.explain(Work(spec_of("grad-cam"), [v1.Input(image=b"a")]))
    assert caught.value.reason == "MODEL_LOADING"
    assert caught.value.retry_after > 0


async def test_the_catalog_is_the_first_workers_and_the_devices_are_everybodys() -> None:
    s = await stage(workers=2)
    assert s.engine.catalog.device == "cpu:0"
    assert s.engine.devices == ["cpu:0", "cpu:1"]


async def test_draining_finishes_what_is_there_takes_nothing_new_and_waits_for_no_delay() -> None:
    s = await stage(Bounds(max_batch_items=4, max_delay=10.0))
    states = []
    s.engine.on_state_change(states.append)
    calls = [s.call("a"), s.call("b")]
    await settle()
    assert s.sent == []
    drain = asyncio.ensure_future(s.engine.drain(30.0))
    await settle()
    with pytest.raises(Unavailable) as caught:
        await s.call("c")
    assert caught.value.reason == "DRAINING"
    assert s.sent == [["a", "b"]]
    assert s.pool.stopped == []
    s.pool.finish()
    assert [labels(await call) for call in calls] == [["a"], ["b"]]
    await drain
    assert s.pool.stopped == [30.0]
    assert states == [State.DRAINING, State.STOPPED]
    with pytest.raises(Unavailable):
        await s.call("d")


async def test_what_is_not_finished_in_the_grace_is_let_go_with_a_hint_to_come_again() -> None:
    s = await stage(Bounds(max_batch_items=1))
    calls = [s.call("a"), s.call("b"), s.call("c")]
    await settle()
    drain = asyncio.ensure_future(s.engine.drain(30.0))
    await settle()
    s.clock.advance(30.0)
    await drain
    for call in calls:
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.reason == "DRAINING"
        assert caught.value.retry_after > 0
    assert len(s.pool.cancelled) == 2
    assert len(s.pool.stopped) == 1


async def test_an_infinite_wait_is_no_deadline() -> None:
    s = await stage()
    call = s.call("a", timeout=math.inf)
    await settle()
    s.clock.advance(1e6)
    s.pool.finish()
    assert labels(await call) == ["a"]


async def test_an_input_that_no_frame_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whylight.engine.item_maker.FRAME_BYTES", 16)
    s = await stage()
    with pytest.raises(InvalidInput) as caught:
        await s.call("a" * 100)
    assert caught.value.reason == "REQUEST_TOO_LARGE"
