"""Several models at several workers: work goes where its model is, a model without a worker holds up no other."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakeClock, FakePool, Stage, labels, settle, spec_of, stage
from hypothesis import given, settings
from hypothesis import strategies as st

from whylight.engine import Bounds, Engine, ModelChoice, State, Work
from whylight.errors import NotFound, Unavailable, Unsupported
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2


def call(s: Stage, name: str, model: str, *, long: bool = False) -> asyncio.Task[list[v1.InputResult]]:
    spec = spec_of("grad-cam", model=model)
    if long:
        spec.kind = catalog_pb2.METHOD_KIND_INSPECTION
    return asyncio.ensure_future(s.engine.explain(Work(spec, [v1.Input(image=name.encode())])))


async def test_work_goes_to_the_least_loaded_worker_that_has_the_model() -> None:
    s = await stage(Bounds(max_batch_items=1), pool=FakePool(3, models={0: ["a"], 1: ["a", "b"], 2: ["b"]}))
    calls = []
    for name, model in (("1", "a"), ("2", "a"), ("3", "b"), ("4", "b"), ("5", "a"), ("6", "b")):
        calls.append(call(s, name, model))
        await settle()
    sent = [(worker, batch.items[0].input.image.decode()) for worker, batch in s.pool.batches]
    assert sent == [(0, "1"), (1, "2"), (2, "3"), (1, "4"), (0, "5"), (2, "6")]
    while s.pool.batches:
        s.pool.finish()
    assert [labels(await task) for task in calls] == [[name] for name in "123456"]


@pytest.mark.parametrize("long", [False, True])
async def test_a_queue_whose_workers_are_full_holds_up_no_other(long: bool) -> None:
    s = await stage(Bounds(max_batch_items=1), pool=FakePool(2, models={0: ["a"], 1: ["b"]}))
    waiting = [call(s, f"a{n}", "a", long=long) for n in range(9)]
    await settle()
    s.clock.advance(1.0)
    free = call(s, "b0", "b", long=long)
    await settle()
    s.clock.advance(1.0)
    assert s.pool.batches[-1][0] == 1
    while s.pool.batches:
        s.pool.finish()
        s.clock.advance(1.0)
    for task in [*waiting, free]:
        await task


async def test_of_two_models_one_whose_worker_is_lost_takes_nothing_from_the_other() -> None:
    s = await stage(Bounds(max_batch_items=1), pool=FakePool(2, models={0: ["a"], 1: ["b"]}))
    calls = {name: call(s, name, name[0]) for name in ("a1", "b1", "b2", "b3")}
    await settle()
    s.pool.down(1)
    assert s.engine.state is State.READY
    states = {model.name: model.state for model in s.engine.catalog.models}
    assert states == {"a": catalog_pb2.MODEL_STATE_READY, "b": catalog_pb2.MODEL_STATE_LOADING}
    s.pool.finish()
    assert labels(await calls["a1"]) == ["a1"]
    for name in ("b1", "b2"):
        with pytest.raises(Unavailable):
            await calls[name]
    s.pool.up(1)
    s.pool.finish()
    assert labels(await calls["b3"]) == ["b3"], "what waited for the model waits for its worker"


async def test_calls_that_wait_for_a_worker_that_cannot_be_brought_back_are_let_go_and_others_are_not() -> None:
    s = await stage(Bounds(max_batch_items=1), pool=FakePool(2, models={0: ["a"], 1: ["b"]}))
    stuck = [call(s, f"b{n}", "b") for n in range(3)]
    waiting = [call(s, f"a{n}", "a") for n in range(3)]
    await settle()
    s.pool.down(1)
    s.pool.down(1)
    for task in stuck:
        with pytest.raises(Unavailable):
            await task
    while s.pool.batches:
        s.pool.finish()
    assert [labels(await task) for task in waiting] == [["a0"], ["a1"], ["a2"]]


async def test_the_catalog_is_the_union_and_an_unknown_model_is_told_of_close_ones() -> None:
    s = await stage(pool=FakePool(2, models={0: ["resnet"], 1: ["densenet"]}))
    assert [model.name for model in s.engine.catalog.models] == ["densenet", "resnet"]
    assert {model.generation for model in s.engine.catalog.models} == {1}
    with pytest.raises(NotFound, match="did you mean resnet") as caught:
        await call(s, "x", "resnot")
    assert (caught.value.reason, caught.value.violations[0].field) == ("MODEL_NOT_FOUND", "model")
    assert s.pool.plans == []


async def test_work_is_taken_when_every_model_of_the_configuration_has_a_worker() -> None:
    pool, clock = FakePool(2, models={0: ["a"], 1: ["b"]}), FakeClock()
    choices = [ModelChoice(name, "demo:x", {"name": name}, (worker,)) for worker, name in enumerate("ab")]
    engine = Engine(pool, clock=clock, models=[*choices, ModelChoice("c", "demo:x", {"name": "c"}, (0,), load=False)])
    pool.listener = engine
    pool.up(0)
    assert engine.state is State.STARTING
    with pytest.raises(Unavailable) as caught:
        await call(Stage(engine, pool, clock), "x", "a")
    assert caught.value.reason == "MODEL_LOADING"
    pool.up(1)
    assert engine.state is State.READY
    with pytest.raises(Unsupported) as refused:
        await call(Stage(engine, pool, clock), "x", "c")
    assert refused.value.reason == "MODEL_NOT_LOADED"
    assert [model.state for model in engine.catalog.models] == [
        catalog_pb2.MODEL_STATE_READY,
        catalog_pb2.MODEL_STATE_READY,
        catalog_pb2.MODEL_STATE_UNLOADED,
    ]


async def test_a_reload_that_failed_once_takes_nothing_from_calls_that_wait_for_a_worker_to_come_back() -> None:
    s = await stage(Bounds(max_batch_items=1))
    reload = s.engine.models.reload(ModelChoice("m", "demo:x", {"name": "m"}, (0,)))
    await settle()
    refused = worker_pb2.ModelLoaded(name="m", generation=2, error=v1.Error(code=9, reason="MODEL_NOT_FOUND"))
    s.pool.listener.worker_said(0, worker_pb2.WorkerFrame(loaded=refused))
    with pytest.raises(Unsupported) as caught:
        await reload
    assert caught.value.metadata["cause"] == "MODEL_NOT_FOUND"
    calls = [call(s, name, "m") for name in ("held", "ahead", "waits")]
    await settle()
    s.pool.down()
    assert [model.state for model in s.engine.catalog.models] == [catalog_pb2.MODEL_STATE_LOADING]
    for task in calls[:2]:
        with pytest.raises(Unavailable):
            await task
    s.pool.up()
    s.pool.finish()
    assert labels(await calls[2]) == ["waits"]


event = st.one_of(
    st.tuples(st.just("call"), st.sampled_from("ab"), st.booleans()),
    st.tuples(st.sampled_from(["finish", "down", "up", "advance"]), st.integers(0, 2), st.just(False)),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(event, max_size=40),
    st.lists(st.sampled_from([["a"], ["b"], ["a", "b"]]), min_size=3, max_size=3).filter(
        lambda models: {"a", "b"} <= {name for names in models for name in names}
    ),
)
def test_whatever_happens_no_worker_gets_what_it_has_not_and_every_call_ends_once(
    events: list[tuple[str, str | int, bool]], models: list[list[str]]
) -> None:
    async def run() -> None:
        s = await stage(Bounds(max_batch_items=2), pool=FakePool(3, models=dict(enumerate(models))))
        up, calls = {0, 1, 2}, []
        for what, which, flag in events:
            if what == "call":
                calls.append(call(s, f"{which}{len(calls)}", which, long=flag))
            elif what == "finish" and s.pool.batches:
                s.pool.batches.append(s.pool.batches.pop(which % len(s.pool.batches)))
                s.pool.finish()
            elif what == "down" and which in up:
                up.discard(which)
                s.pool.down(which)
            elif what == "up" and which not in up:
                up.add(which)
                s.pool.up(which)
            elif what == "advance":
                s.clock.advance(1.0)
            await settle()
            for worker, batch in s.pool.batches:
                assert worker in up
                assert batch.spec.model in models[worker]
                assert batch.spec.generation == 1
            idle = up - {worker for worker, _ in s.pool.batches}
            s.clock.advance(0.06)  # long work gathers for a moment
            idle = {worker for worker in idle if all(holder != worker for holder, _ in s.pool.batches)}
            free = {name for worker in idle for name in models[worker]}
            waiting = [item.plan.spec.model for item in s.engine._dispatcher._live.values() if item.flight is None]
            assert not free & set(waiting), "a worker has nothing to do while work for it waits"
        for worker in {0, 1, 2} - up:
            s.pool.up(worker)
        for _ in range(200):
            if not s.pool.batches and all(task.done() for task in calls):
                break
            s.clock.advance(1.0)
            if s.pool.batches:
                s.pool.finish()
            await settle()
        for task in calls:
            assert task.done(), "a call has no end"
            error = task.exception()
            assert error is None or isinstance(error, Unavailable)

    asyncio.run(run())
