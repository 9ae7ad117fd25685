"""A worker that is started again measures no model that is the very same, but every other; what it imports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worker_serving import explain, maps, picture, serving

from whylight.engine import State
from whylight.models import Model, ModelConfig, open_model
from whylight.models.probe import is_batch_invariant
from whylight.subject import invariance
from whylight.testing.networks import ConvGapNet
from whylight.worker import measured as module_under_test
from whylight.worker.config import PluginChoice, WorkerConfig
from whylight.worker.measured import KEPT, Measured, fingerprint
from whylight.worker.service import ExplainerService
from whylight.worker.shelf import ModelShelf
from whylight.worker.v1 import worker_pb2

NET = {"name": "net", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 48]}


def fields(**others: Any) -> dict[str, Any]:
    return {**NET, "weights": "random:0", **others}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """With one, no convolution is split between threads, so that there is nothing to find out."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of the models that are measured, one each time."""
    digests: list[str] = []

    def counted(model: Model) -> bool:
        digests.append(model.digest)
        return is_batch_invariant(model)

    monkeypatch.setattr("whylight.models.probe.is_batch_invariant", counted)
    return digests


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches by which convolutions find out where to fill up."""
    sizes: list[int] = []
    bits = invariance._bits

    def counted(plain: Any, sample: Tensor, count: int, backward: bool) -> tuple[Tensor, ...]:
        sizes.append(count)
        return bits(plain, sample, count, backward)

    monkeypatch.setattr(invariance, "_bits", counted)
    return sizes


def worker(known: dict[str, str], **others: Any) -> ExplainerService:
    config = WorkerConfig(
        models=(fields(**others),),
        measured=known,
        warm_up_batches=(1, 3),
        plugins=PluginChoice(only=("cam", "gradients")),
    )
    return ExplainerService.open(WorkerConfig.from_json(config.to_json()))


def test_a_worker_that_is_told_what_was_measured_of_a_model_serves_the_same_and_measures_nothing(
    probed: list[str], tried: list[int]
) -> None:
    first = worker({})
    known = dict(first.ready.measured)
    assert len(probed) == len(known) == 1
    before = len(tried)
    assert before > 0
    again = worker(known)
    assert len(probed) == 1, "it has measured it anew"
    assert again.ready == first.ready
    # What opening a model tries, before it is known which one it is; none in the batches of the warm-up, or afterwards.
    opening = len(tried) - before
    tried.clear()
    model = open_model(ModelConfig(**fields()), {})
    assert opening == len(tried)
    tried.clear()
    served = again._shelf.models()["net"]
    assert served.batch_invariant
    one = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    served.run(one).output.sum().backward()
    assert tried == []
    model.run(one).output.sum().backward()
    assert tried != [], "a model of which nothing is known has to find it out"


@pytest.mark.parametrize("other", [{"weights": "random:1"}, {"input_size": [48, 32]}, {"channels_last": False}])
def test_another_model_is_measured_anew(probed: list[str], other: dict[str, Any]) -> None:
    known = dict(worker({}).ready.measured)
    found = dict(worker(known, **other).ready.measured)
    assert len(probed) == 2
    assert found.keys() > known.keys(), "what was known stays known"


def test_another_number_of_threads_is_measured_anew(probed: list[str]) -> None:
    known = dict(worker({}).ready.measured)
    torch.set_num_threads(3)
    worker(known)
    assert len(probed) == 2


def test_a_model_that_torch_compiles_is_measured_each_time(probed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    known = dict(worker({}, compile=True).ready.measured)
    assert worker(known, compile=True).ready.measured.keys() == known.keys()
    assert len(probed) == 2


class Changeable(ConvGapNet):
    """A network whose code changes while its weights and layers stay."""

    mixing = False

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = super().forward(inputs)
        return scores - scores.mean() if self.mixing else scores


def test_a_model_with_the_same_weights_and_other_code_is_measured_anew(
    probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = types.ModuleType("changeable_network")
    made.__dict__["make"] = Changeable
    monkeypatch.setitem(sys.modules, "changeable_network", made)
    config = fields(source="python:changeable_network:make")
    measured = Measured()
    first = ModelShelf({}, torch.device("cpu"), measured=measured).load(config)
    assert first.batch_invariant
    monkeypatch.setattr(Changeable, "mixing", True)
    second = ModelShelf({}, torch.device("cpu"), measured=Measured(measured.known)).load(config)
    assert (first.digest, fingerprint(first)) == (second.digest, fingerprint(second))
    assert not second.batch_invariant
    assert len(probed) == 2


def test_a_version_loaded_later_is_told_of_too_and_one_loaded_again_is_not_measured_again(probed: list[str]) -> None:
    service = worker({})
    config = json.dumps(fields(weights="random:7"))
    for generation in (2, 3):
        reply = service.load(worker_pb2.LoadModel(name="net", generation=generation, config=config))
        assert reply.model.batch_invariant
        assert len(reply.measured) == len(probed) == 2


def test_what_cannot_be_read_is_measured_anew(probed: list[str], caplog: pytest.LogCaptureFixture) -> None:
    model = ModelShelf({}, torch.device("cpu")).load(fields())
    measured = Measured({fingerprint(model): "{"})
    assert ModelShelf({}, torch.device("cpu"), measured=measured).load(fields()).batch_invariant
    assert len(probed) == 2
    assert "cannot be read" in caplog.text
    assert "answers" in measured.known[fingerprint(model)]


def test_the_last_measurements_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "fingerprint", lambda model: "new")
    measured = Measured({str(number): "" for number in range(KEPT)})
    ModelShelf({}, torch.device("cpu"), measured=measured).load(fields())
    assert list(measured.known) == [*(str(number) for number in range(1, KEPT)), "new"]


def test_sizes_travel_as_json_to_a_copy_of_the_module(tried: list[int]) -> None:
    def network() -> nn.Module:
        module = ConvGapNet().requires_grad_(False).eval()
        invariance.make_batch_invariant(module)
        return module

    first, second = network(), network()
    second.load_state_dict(first.state_dict())
    inputs = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    answers = first(inputs)
    found = invariance.found_sizes(first)
    assert set(found) == {"features.0", "features.3"}
    invariance.put_sizes(second, json.loads(json.dumps(found)))
    tried.clear()
    assert torch.equal(second(inputs), answers)
    assert tried == []
    invariance.put_sizes(second, {})
    second(inputs)
    assert tried != []


@pytest.mark.asyncio
async def test_a_worker_that_is_killed_and_started_again_takes_over_what_the_first_has_measured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    net = fields(name="resnet")
    async with serving(net) as (engine, pool):
        expected = maps(await explain(engine, picture(0), picture(1), picture(2)))
        assert "takes over" not in caplog.text
        back = asyncio.Event()
        engine.on_state_change(lambda state: back.set() if state is State.READY else None)
        os.kill(pool.pids[0], signal.SIGKILL)
        await asyncio.wait_for(back.wait(), 300)
        assert maps(await explain(engine, picture(0), picture(1), picture(2))) == expected
        assert "takes over what was measured of resnet before" in caplog.text
        assert engine.catalog.models[0].batch_invariant


READY_WITHOUT = """
import sys
from whylight.worker.config import WorkerConfig
from whylight.worker.service import ExplainerService

config = WorkerConfig(models=({"name": "demo", "source": "demo:efficientnet-lite0", "weights": "random:0"},),
                      threads=1, warm_up_batches=(1,))
service = ExplainerService.open(config)
assert len(service.ready.models[0].labels) == 1000
heavy = ("torchvision", "torch._dynamo", "torch._inductor", "timm", "scipy", "sklearn", "skimage", "matplotlib", "grpc")
print(*[name for name in heavy if name in sys.modules])
"""


def test_a_worker_that_is_ready_has_not_imported_what_its_model_does_not_need() -> None:
    """Of these, torchvision alone takes more than torch itself: its operators bring the compiler in."""
    done = subprocess.run(
        [sys.executable, "-c", READY_WITHOUT], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
