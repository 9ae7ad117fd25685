"""A method that asks a second model is done where both are, and refused where they never are together."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakePool, Stage, labels, settle, spec_of, stage

from whylight.engine import Bounds, Engine, ModelChoice, Work
from whylight.engine.second_models import SecondModels
from whylight.errors import Unavailable, Unsupported
from whylight.options import SERVED_MODEL_FORMAT, PlainOptions, ServedModel
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.options import dict_to_struct
from whylight.worker.v1 import worker_pb2


class WithExpert(PlainOptions):
    expert: ServedModel
    judge: ServedModel | None = None
    critic: ServedModel = "c"
    remark: str = ""


WITH_EXPERT = catalog_pb2.Method(
    name="with-expert", options_schema=dict_to_struct(WithExpert.model_json_schema(), "options_schema")
)


def work(name: str, model: str, long: bool = False, **options: str) -> Work:
    spec = spec_of("with-expert", model=model)
    spec.methods[0].options.update({"critic": model, **options})
    if long:
        spec.kind = catalog_pb2.METHOD_KIND_INSPECTION
    return Work(spec, [v1.Input(image=name.encode())])


def call(s: Stage, *arguments: object, **options: str) -> asyncio.Task[list[v1.InputResult]]:
    return asyncio.ensure_future(s.engine.explain(work(*arguments, **options)))


async def three_workers() -> Stage:
    """Worker 0 has "a", worker 1 "a" and "b", worker 2 "b" and "c"."""
    models = {0: ["a"], 1: ["a", "b"], 2: ["b", "c"]}
    return await stage(Bounds(max_batch_items=1), pool=FakePool(3, models=models, methods=[WITH_EXPERT]))


def test_the_options_that_name_a_model_are_known_by_their_schema() -> None:
    second = SecondModels([WITH_EXPERT, catalog_pb2.Method(name="grad-cam")])
    assert second.of(work("1", "a", expert="b", remark="d").spec) == ("b",), "the model itself is none"
    assert second.of(work("1", "a", expert="b", judge="d", critic="b").spec) == ("b", "d")
    defaults = spec_of("with-expert", model="a")
    defaults.methods[0].options.update({"expert": "b"})
    assert second.of(defaults) == ("b", "c")
    assert second.of(spec_of("grad-cam", model="a")) == ()


async def test_the_second_model_is_asked_in_the_version_that_new_calls_get_and_not_in_one_that_is_there_already() -> (
    None
):
    choices = [ModelChoice(name, "demo:x", {"name": name}, (0,)) for name in "ab"]
    pool = FakePool(models={0: ["a", "b"]}, methods=[WITH_EXPERT])
    engine = Engine(pool, models=choices)
    await engine.start()
    reloading = engine.models.reload(choices[1])
    for now in (1, 2):
        asked = asyncio.ensure_future(engine.explain(work("1", "a", expert="b")))
        await settle()
        assert dict(pool.batches[0][1].spec.other_generations) == {"b": now}
        if now == 1:  # this call holds on to what it asks
            reply = worker_pb2.ModelLoaded(name="b", generation=2, model=catalog_pb2.Model(name="b"))
            engine.worker_said(0, worker_pb2.WorkerFrame(loaded=reply))
            await settle()
            assert engine.models.table.served["b"].generation == 2
            assert not reloading.done(), "the former one is kept for the call that asks it"
        pool.finish()
        await asked
    engine.worker_said(0, worker_pb2.WorkerFrame(unloaded=worker_pb2.ModelUnloaded(name="b", generation=1)))
    await reloading


@pytest.mark.parametrize("long", [False, True])
async def test_work_that_asks_two_models_goes_to_the_worker_that_has_both(long: bool) -> None:
    s = await three_workers()
    s.pool.hold_plans = True
    calls = [call(s, str(n), "a", long, expert="b") for n in range(6)]
    await settle()
    assert [worker for worker, _ in s.pool.plans] == [1], "it is asked about the plan, too"
    s.pool.answer_plan()
    s.pool.hold_plans = False
    answered = []
    await settle()
    while s.pool.batches:
        answered += [worker for worker, _ in s.pool.batches]
        s.pool.finish()
        await settle()
    assert set(answered) == {1}, "worker 0 was free all the time"
    assert [labels(await task) for task in calls] == [[str(n)] for n in range(6)]


async def test_models_that_are_never_together_are_named_in_the_refusal() -> None:
    s = await three_workers()
    with pytest.raises(Unsupported, match="no worker has both the model 'a' and 'c'") as caught:
        await call(s, "1", "a", expert="c")
    assert (caught.value.reason, caught.value.metadata) == ("MODELS_APART", {"model": "a", "other": "c"})
    assert s.pool.plans == []


async def test_of_an_unknown_second_model_the_worker_tells() -> None:
    s = await three_workers()
    asked = call(s, "1", "a", expert="nobody")
    await settle()
    assert [worker for worker, _ in s.pool.batches] == [0]
    s.pool.finish()
    assert labels(await asked) == ["1"]


async def test_a_second_model_that_is_not_loaded_is_said_to_be_so() -> None:
    choices = [ModelChoice(name, "demo:x", {"name": name}, (0,), load=name == "a") for name in "ad"]
    pool = FakePool(models={0: ["a"]}, methods=[WITH_EXPERT])
    engine = Engine(pool, models=choices)
    await engine.start()
    with pytest.raises(Unsupported) as caught:
        await engine.explain(work("1", "a", expert="d"))
    assert (caught.value.reason, caught.value.metadata) == ("MODEL_NOT_LOADED", {"model": "d"})


async def test_who_waits_for_two_models_is_told_when_their_worker_is_lost_for_good() -> None:
    s = await three_workers()
    calls = [call(s, str(n), "a", expert="b") for n in range(5)]
    await settle()
    s.pool.down(1)
    s.pool.down(1)  # it could not be started again
    for task in calls:
        with pytest.raises(Unavailable):
            await task


def test_the_methods_that_ask_a_second_model_say_so() -> None:
    from whylight_generative.latent_traversal import LatentTraversalOptions
    from whylight_synthesis.activation_maximization_code import CodeOptions
    from whylight_synthesis.activation_maximization_expert import ExpertOptions

    for kind, option in ((LatentTraversalOptions, "decoder"), (CodeOptions, "generator"), (ExpertOptions, "expert")):
        assert kind.model_json_schema()["properties"][option]["format"] == SERVED_MODEL_FORMAT
