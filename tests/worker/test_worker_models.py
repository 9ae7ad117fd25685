"""Models that come and go while a worker works: versions side by side, loads beside batches, memory that comes back."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file
from worker_serving import picture

from whylight.engine import Engine, LocalPool, ModelChoice, frames
from whylight.errors import InvalidInput, Overloaded, Unavailable
from whylight.models import Model, ModelConfig, open_model
from whylight.testing.networks import conv_gap_net
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.config import PluginChoice, WorkerConfig
from whylight.worker.loader import Loader
from whylight.worker.loop import Loop
from whylight.worker.service import ExplainerService
from whylight.worker.shelf import ModelShelf
from whylight.worker.v1 import worker_pb2

NET = {"name": "net", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 48]}
CPU = torch.device("cpu")


def fields(seed: int, **others: Any) -> dict[str, Any]:
    return {**NET, "weights": f"random:{seed}", **others}


def shelf_of(*seeds: int) -> ModelShelf:
    shelf = ModelShelf({}, CPU)
    for generation, seed in enumerate(seeds, 1):
        shelf.load(fields(seed), generation)
    return shelf


def test_versions_stand_side_by_side_and_each_is_its_own() -> None:
    shelf = shelf_of(0, 1)
    first, second = (shelf.models_beside({"net": generation})["net"] for generation in (1, 2))
    assert first.digest != second.digest
    assert shelf.models() == {"net": second} == shelf.models_beside({"net": 0})
    assert shelf.models_beside({"another": 1, "net": 1}) == {"net": first}, "as work on another model is to see it"
    shelf.forget("net", 2)
    assert shelf.models() == {"net": first}
    with pytest.raises(Unavailable):
        shelf.models_beside({"net": 2})


def test_a_version_gets_the_memory_of_the_one_that_it_is_to_replace_not_what_is_free_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = shelf_of(0)
    monkeypatch.setattr("whylight.models.load.CPU_BUDGET", 1)
    assert shelf.load(fields(1), 2).budget == shelf.models_beside({"net": 1})["net"].budget > 1
    assert shelf.load(fields(2, memory_budget_bytes=77), 3).budget == 77


def test_weights_must_have_the_digest_that_the_operator_pinned(tmp_path: Path) -> None:
    digest = open_model(ModelConfig(**fields(0)), {}).digest
    assert shelf_of().load(fields(0, digest=digest)).digest == digest
    save_file(conv_gap_net(1).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InvalidInput, match="not sha256") as caught:
        shelf_of().load({**NET, "weights": str(tmp_path / "other.safetensors"), "digest": digest})
    assert (caught.value.reason, caught.value.violations[0].field) == ("DIGEST_MISMATCH", "digest")


def test_a_model_is_warm_before_anybody_has_it_and_is_not_there_when_that_fails() -> None:
    shelf: ModelShelf
    seen: list[str] = []

    def warm_up(model: Model) -> None:
        assert shelf.models() == {}
        seen.append(model.digest)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("no memory")

    shelf = ModelShelf({}, CPU, warm_up)
    with pytest.raises(Overloaded, match="no memory") as caught:
        shelf.load(fields(0))
    assert caught.value.reason == "OUT_OF_MEMORY"
    assert shelf.models() == {}
    assert shelf.load(fields(0)).digest == seen[1]


@pytest.fixture(scope="module")
def opened() -> ExplainerService:
    config = WorkerConfig(models=(fields(0),), threads=1, warm_up_batches=(1, 3), plugins=PluginChoice(only=("cam",)))
    return ExplainerService.open(config)


def test_the_first_batches_of_a_model_are_those_of_the_warm_up(
    opened: ExplainerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    explain = type(opened._explainer).explain

    def counted(self: Any, plan: Any, inputs: Any, *rest: Any) -> Any:
        batches.append(len(inputs))
        assert plan.methods[0].method.name == "grad-cam"
        assert plan.model.input_size == (32, 48)
        outcomes = explain(self, plan, inputs, *rest)
        assert all(outcome.explanations for outcome in outcomes)
        return outcomes

    monkeypatch.setattr(type(opened._explainer), "explain", counted)
    reply = opened.load(worker_pb2.LoadModel(name="net", generation=9, config=json.dumps(fields(9))))
    assert (reply.model.name, reply.model.generation) == ("net", 9)
    assert batches == [1, 3]
    opened.unload(worker_pb2.UnloadModel(name="net", generation=9))


def test_a_model_that_suits_no_method_is_warmed_up_by_plain_passes(
    opened: ExplainerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = Model.run

    def counted(self: Model, inputs: torch.Tensor, *rest: Any, **others: Any) -> Any:
        sizes.append(len(inputs))
        return run(self, inputs, *rest, **others)

    monkeypatch.setattr("whylight.worker.warm_up.METHODS", ("not-here",))
    monkeypatch.setattr(Model, "run", counted)
    reply = opened.load(worker_pb2.LoadModel(name="net", generation=8, config=json.dumps(fields(8))))
    assert reply.HasField("model")
    assert {1, 3} <= set(sizes)
    opened.unload(worker_pb2.UnloadModel(name="net", generation=8))


@pytest.mark.parametrize(
    ("wrong", "reason", "said"),
    [
        ({"weights": "/no/such.safetensors"}, "MODEL_NOT_FOUND", "no weights file"),
        ({"source": "nowhere:net"}, "MODEL_NOT_FOUND", "no plugin offers"),
        ({"weights": 3}, "CONFIGURATION_INVALID", "weights"),
        ({"source": "python:os:abort_"}, "", "abort_"),
    ],
)
def test_a_load_that_fails_says_why_and_leaves_everything_as_it_was(
    opened: ExplainerService, wrong: dict[str, Any], reason: str, said: str
) -> None:
    config = json.dumps({**fields(0), **wrong})
    reply = opened.load(worker_pb2.LoadModel(name="net", generation=2, config=config))
    assert reply.HasField("error")
    assert reason in reply.error.reason
    assert said in reply.error.message
    assert opened._shelf.generations() == {"net": 1}


class Front:
    """The front end's side of the socket of a real loop over a real service."""

    def __init__(self, service: ExplainerService) -> None:
        self.connection, theirs = socket.socketpair()
        self._theirs = theirs
        self.loop = Loop(theirs, service)
        self._runner = ThreadPoolExecutor(1)
        self.running = self._runner.submit(self.loop.run)

    def say(self, **body: Any) -> None:
        frames.send(self.connection, worker_pb2.FrontEndFrame(**body))

    def hear(self, *kinds: str) -> worker_pb2.WorkerFrame:
        while (frame := frames.receive(self.connection, worker_pb2.WorkerFrame)).WhichOneof("body") not in kinds:
            pass
        return frame

    def explain(self, generation: int) -> bytes:
        spec = worker_pb2.PlanSpec(
            model="net",
            generation=generation,
            methods=[v1.MethodCall(name="grad-cam")],
            outputs=[v1.OutputSpec(map=v1.MapOutput())],
        )
        item = worker_pb2.Item(item_id=1, input=picture(0))
        self.say(batch=worker_pb2.Batch(batch_id=1, spec=spec, items=[item]))
        result = self.hear("result").result.result
        assert not result.HasField("error"), result.error
        self.hear("done")
        return result.explained.explanations[0].artifacts[0].tensor.data

    def close(self) -> None:
        self.say(drain=worker_pb2.Drain())
        self.running.result(timeout=60)
        self.connection.close()
        self._theirs.close()
        self._runner.shutdown()


@pytest.fixture
def front(opened: ExplainerService) -> Iterator[Front]:
    front = Front(opened)
    yield front
    front.close()


def test_each_batch_is_worked_off_by_the_version_that_it_names_and_what_is_forgotten_is_freed(
    front: Front, opened: ExplainerService
) -> None:
    before = front.explain(1)
    config = json.dumps(fields(2))
    front.say(load=worker_pb2.LoadModel(name="net", generation=2, config=config))
    assert front.hear("loaded").loaded.model.generation == 2
    after = front.explain(2)
    assert after != before
    assert front.explain(1) == before
    freed = weakref.ref(opened._shelf.models_beside({"net": 2})["net"])
    assert front.explain(2) == after
    front.say(unload=worker_pb2.UnloadModel(name="net", generation=2))
    assert front.hear("unloaded").unloaded.generation == 2
    gc.collect()
    assert freed() is None, "something still holds the model"
    assert front.explain(1) == before


def test_batches_go_on_while_a_model_is_loaded(
    front: Front, opened: ExplainerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    warm_up = opened._shelf._warm_up

    def held(model: Model) -> None:
        assert go_on.wait(60)
        warm_up(model)

    monkeypatch.setattr(opened._shelf, "_warm_up", held)
    front.say(load=worker_pb2.LoadModel(name="net", generation=3, config=json.dumps(fields(3))))
    for _ in range(3):
        front.explain(1)
    assert front.loop.loading
    go_on.set()
    assert front.hear("loaded").loaded.generation == 3
    front.say(unload=worker_pb2.UnloadModel(name="net", generation=3))
    front.hear("unloaded")


def test_loads_are_done_one_after_the_other() -> None:
    order: list[str] = []

    class Service:
        def load(self, request: worker_pb2.LoadModel) -> worker_pb2.ModelLoaded:
            order.append(f"load {request.name}")
            return worker_pb2.ModelLoaded(name=request.name)

        def unload(self, request: worker_pb2.UnloadModel) -> worker_pb2.ModelUnloaded:
            order.append(f"unload {request.name}")
            return worker_pb2.ModelUnloaded(name=request.name)

    said = threading.Semaphore(0)
    loader = Loader(Service())
    loader.load(worker_pb2.LoadModel(name="a"))
    loader.unload(worker_pb2.UnloadModel(name="b"))
    loader.load(worker_pb2.LoadModel(name="c"))
    assert loader.busy
    loader.start(lambda frame: said.release())
    for _ in range(3):
        assert said.acquire(timeout=60)
    assert order == ["load a", "unload b", "load c"]


SLOW = """
import os, time
def factory():
    with open(os.environ["SLOW_STARTED"], "w") as started:
        started.write(str(os.getpid()))
    time.sleep(1000)
"""

FRONT_END = """
import asyncio
from whylight.engine import Engine, LocalPool
from whylight.worker.config import WorkerConfig
model = {"name": "slow", "source": "python:slow_to_load:factory"}
asyncio.run(Engine(LocalPool([WorkerConfig(models=(model,))])).start())
"""


def test_a_worker_that_is_still_loading_ends_when_its_front_end_is_gone(tmp_path: Path) -> None:
    (tmp_path / "slow_to_load.py").write_text(SLOW)
    started = tmp_path / "started"
    os.mkfifo(started)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SLOW_STARTED": str(started)}
    front_end = subprocess.Popen([sys.executable, "-c", FRONT_END], env=environment)
    worker = psutil.Process(int(started.read_text()))
    front_end.kill()
    front_end.wait()
    worker.wait(timeout=60)
    assert not worker.is_running()


async def test_a_worker_that_loads_beside_its_work_is_not_kept_from_its_end_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "slow_to_load.py").write_text(SLOW)
    started = tmp_path / "started"
    os.mkfifo(started)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SLOW_STARTED", str(started))
    pool = LocalPool([WorkerConfig(models=(fields(0),), threads=1, plugins=PluginChoice(only=("cam",)))])
    engine = Engine(pool)
    await engine.start()
    reload = engine.models.reload(ModelChoice("net", "", fields(0, source="python:slow_to_load:factory"), (0,)))
    assert await asyncio.to_thread(started.read_text) == str(pool.pids[0])
    await engine.drain(120.0)
    await asyncio.gather(reload, return_exceptions=True)
    assert reload.cancelled()
    assert "is killed" not in caplog.text
