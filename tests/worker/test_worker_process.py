"""The real worker with a real network, behind the real engine: answers, errors, faults of plugins, kill -9."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from worker_serving import RESNET, explain, install_misbehaving, maps, picture, serving, work

from whylight.engine import Bounds, Engine, LocalPool, State
from whylight.engine.pool import WorkerStartError
from whylight.errors import InvalidInput, NotFound, Unavailable, WhylightError
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import duration_to_seconds, struct_to_dict
from whylight.worker.config import WorkerConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def misbehaving(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("plugin")
    install_misbehaving(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(misbehaving: None) -> AsyncIterator[tuple[Engine, LocalPool]]:
    async with serving() as (engine, pool):
        yield engine, pool


@pytest.fixture
def engine(served: tuple[Engine, LocalPool]) -> Engine:
    return served[0]


async def test_the_catalog_says_what_there_is(engine: Engine) -> None:
    catalog = engine.catalog
    names = [method.name for method in catalog.methods]
    assert names == sorted(names)
    assert {"grad-cam", "misbehaving"} <= set(names)
    method = catalog.methods[names.index("misbehaving")]
    assert (method.summary, method.plugin, method.kind) == (
        "Does what its option says.",
        "misbehaving",
        catalog_pb2.METHOD_KIND_ATTRIBUTION,
    )
    schema = struct_to_dict(method.options_schema)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["how"]["default"] == "well"
    (model,) = catalog.models
    assert (model.name, model.source, model.default, model.class_count) == ("resnet", RESNET["source"], True, 1000)
    assert (model.input_channels, model.input_size.width, model.input_size.height) == (3, 64, 64)
    assert model.last_spatial_layer in [layer.name for layer in model.layers]
    assert len(model.digest) >= 32
    assert len(model.labels) == 1000
    assert "gradients" in model.capabilities
    states = {plugin.name: plugin.state for plugin in catalog.plugins}
    assert states["cam"] == states["misbehaving"] == catalog_pb2.PLUGIN_STATE_ACTIVE
    assert {"torch", "numpy", "whylight", "python"} <= set(catalog.library_versions)
    assert catalog.native_operators.startswith(("yes", "no"))
    assert catalog.device == "cpu"


async def test_an_answer_has_everything_and_is_the_same_alone_and_in_company(engine: Engine) -> None:
    inputs = [picture(seed) for seed in range(6)]
    together = await explain(engine, *inputs)
    alone = [(await explain(engine, one))[0] for one in inputs]
    assert engine.catalog.models[0].batch_invariant
    assert maps(together) == maps(alone)
    assert len(set(maps(together))) == 6
    explanation = together[0].explained.explanations[0]
    assert list(explanation.artifacts[0].tensor.shape) == [2, 2]
    execution = explanation.execution
    assert execution.device == "cpu"
    assert execution.batch_size == 6
    for spent in (execution.queue_time, execution.compute_time, execution.decode_time, execution.render_time):
        assert 0 < duration_to_seconds(spent) < 300
    assert len(together[0].explained.predictions) == 1
    assert (together[0].explained.original_size.width, together[0].explained.original_size.height) == (60, 40)


async def test_bad_inputs_fail_alone_each_with_the_path_of_what_is_wrong(engine: Engine) -> None:
    unknown = picture(1)
    unknown.targets.add(class_label="no such label")
    negative = picture(1)
    negative.targets.add(rank=0)
    negative.targets.add(class_index=-1)
    results = await explain(
        engine,
        picture(0),
        v1.Input(image=b"no picture"),
        unknown,
        negative,
        v1.Input(tensor=v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=[2, 2, 3], data=b"too short")),
        v1.Input(),
        picture(2),
    )
    errors = [(result.error.reason, [violation.field for violation in result.error.violations]) for result in results]
    assert errors == [
        ("", []),
        ("IMAGE_UNREADABLE", ["input.image"]),
        ("LABEL_NOT_FOUND", ["input.targets[0]"]),
        ("TARGET_INVALID", ["input.targets[1].class_index"]),
        ("TENSOR_INVALID", ["input.tensor.data"]),
        ("REQUEST_INVALID", ["input"]),
        ("", []),
    ]


@pytest.mark.parametrize(
    ("wrong", "kind", "reason", "field"),
    [
        ({"model": "resnot"}, NotFound, "MODEL_NOT_FOUND", "model"),
        ({"method": "grad-cma"}, NotFound, "METHOD_NOT_FOUND", "methods[0].name"),
        ({"options": {"lair": "x"}}, InvalidInput, "OPTION_INVALID", "methods[0].options.lair"),
        ({"options": {"layer": "layer9"}}, NotFound, "LAYER_NOT_FOUND", "methods[0].options.layer"),
        ({"outputs": [v1.OutputSpec(name="o")]}, InvalidInput, "OUTPUT_INVALID", "outputs[0]"),
    ],
)
async def test_a_wrong_plan_fails_the_call(
    engine: Engine, wrong: dict, kind: type[WhylightError], reason: str, field: str
) -> None:
    with pytest.raises(kind) as caught:
        await explain(engine, picture(0), **wrong)
    assert caught.value.reason == reason
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("how", ["raise", "exit"])
async def test_a_method_that_fails_is_named_and_harms_nobody(engine: Engine, how: str) -> None:
    failing = explain(engine, picture(0), picture(1), method="misbehaving", options={"how": how})
    sound = explain(engine, picture(0))
    for result in await failing:
        assert result.error.code == 13
        assert "path" not in str(result.error)
        if how == "raise":
            assert result.error.reason == "METHOD_FAILED"
            assert dict(result.error.metadata) == {"method": "misbehaving", "plugin": "misbehaving"}
    assert len(maps(await sound)) == 1


async def test_a_cancel_reaches_the_method_that_is_running(engine: Engine) -> None:
    endless = explain(engine, picture(0), method="misbehaving", options={"how": "until-cancelled"})
    while not engine.in_flight:
        await asyncio.sleep(0)
    after = explain(engine, picture(0))
    endless.cancel()
    assert len(maps(await after)) == 1, "the one thread that computes is free again"


async def test_a_deadline_reaches_the_method_that_is_running(engine: Engine) -> None:
    endless = work(picture(0), method="misbehaving", options={"how": "until-cancelled"})
    await explain(engine, picture(0), method="misbehaving", options={"how": "well"})
    with pytest.raises(WhylightError) as caught:
        await engine.explain(replace(endless, deadline=asyncio.get_running_loop().time() + 0.2))
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    assert len(maps(await explain(engine, picture(0)))) == 1


async def test_callers_that_come_and_go_leave_the_others_their_own_answers(engine: Engine) -> None:
    chance = random.Random(0)
    expected = maps(await explain(engine, *[picture(seed) for seed in range(8)]))
    calls = []
    for n in range(120):
        first = n % 8
        method = ("grad-cam", "layer-cam")[chance.random() < 0.2]
        calls.append((method, first, explain(engine, picture(first), picture((first + 1) % 8), method=method)))
        if chance.random() < 0.4:
            chance.choice(calls)[2].cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.02)
    answered = 0
    for method, first, call in calls:
        try:
            found = maps(await call)
        except asyncio.CancelledError:
            continue
        answered += 1
        if method == "grad-cam":
            assert found == [expected[first], expected[(first + 1) % 8]]
    assert answered >= 60
    assert engine.queued == engine.in_flight == 0


async def test_signals_that_everybody_gets_do_not_end_a_worker(served: tuple[Engine, LocalPool]) -> None:
    engine, pool = served
    pid = pool.pids[0]
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert len(maps(await explain(engine, picture(0)))) == 1
    assert pool.pids[0] == pid


async def test_kill_9_under_load_fails_what_the_worker_held_and_nothing_else() -> None:
    async with serving(bounds=Bounds(max_batch_items=4)) as (engine, pool):
        expected = maps(await explain(engine, *[picture(seed) for seed in range(8)]))
        states: list[State] = []
        engine.on_state_change(states.append)
        endless = explain(engine, picture(0), method="misbehaving", options={"how": "until-cancelled"})
        while not engine.in_flight:
            await asyncio.sleep(0)
        calls = [explain(engine, picture(n % 8)) for n in range(40)]
        while engine.queued + engine.in_flight < 1 + 40:
            await asyncio.sleep(0)
        killed, held = pool.pids[0], engine.in_flight
        os.kill(killed, signal.SIGKILL)
        outcomes = await asyncio.gather(*calls, endless, return_exceptions=True)
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert 1 < len(lost) == held <= 1 + 4, "what it computed, for ever, and the batch behind that"
        assert isinstance(outcomes.pop(), Unavailable)
        for error in lost:
            assert isinstance(error, Unavailable)
            assert error.reason == "WORKER_LOST"
            assert error.retry_after > 0
        for n, outcome in enumerate(outcomes):
            assert isinstance(outcome, Unavailable) or maps(outcome) == [expected[n % 8]]
        assert states == [State.UNAVAILABLE, State.READY]
        assert pool.pids[0] != killed
        assert maps(await explain(engine, picture(5))) == [expected[5]]


async def test_a_plugin_that_crashes_the_process_is_in_the_log_and_the_next_calls_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as (engine, _):
        with pytest.raises(Unavailable) as caught:
            await explain(engine, picture(0), method="misbehaving", options={"how": "crash"})
        assert caught.value.reason == "WORKER_LOST"
        back = asyncio.Event()
        engine.on_state_change(lambda state: back.set() if state is State.READY else None)
        await back.wait()
        assert len(maps(await explain(engine, picture(0)))) == 1
    assert "SIGSEGV" in caplog.text
    assert "whylight_misbehaving.py" in caplog.text, "the Python frames at the crash"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (WorkerConfig(models=(RESNET, RESNET)), "two models have the name 'resnet'"),
        (WorkerConfig(models=({**RESNET, "source": "nowhere:resnet18"},)), "nowhere"),
        (WorkerConfig(models=({**RESNET, "shape": 1},)), "shape"),
        (WorkerConfig(models=(RESNET,), device="nodevice"), "nodevice"),
        (WorkerConfig(models=(RESNET,), gpu_decode=True), "worker.gpu_decode is set, but this worker's device is cpu"),
    ],
)
async def test_a_worker_that_cannot_start_says_why(config: WorkerConfig, said: str) -> None:
    with pytest.raises(WorkerStartError, match=said):
        await Engine(LocalPool([config])).start()
