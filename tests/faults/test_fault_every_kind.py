"""A call of each kind is in flight when the server is told to stop, or its model is changed: every one is answered."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import faulty_plugin
import grpc
import long_plugin
import numpy as np
import pytest
from fault_serving import Gate, reason_of, request, told_when_to_come_again
from grpc_health.v1 import health_pb2
from infer_requests import Stub, array, infer
from prometheus_client.parser import text_string_to_metric_families
from test_real_server_models import Site, net, site, write_file

from whylight.open_inference import messages as oip
from whylight.testing.server import RunningServer
from whylight.v1 import catalog_pb2, explanation_pb2_grpc
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import dict_to_struct

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.contextmanager
def serving(folder: Path, **sections: Any) -> Iterator[Site]:
    """Run a server with the faulty plugin, the one whose work is long, and a file by which its model is changed."""
    for plugin in (faulty_plugin, long_plugin):
        plugin.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        plugins = {"only": ["faulty", "gradients", "long"]}
        with site(folder, net(0), plugins=plugins, **sections) as running:
            yield running


STEPS = 4000


class LongGate:
    """The ends of the pipes at which long work tells of its steps, and waits to be let on.

    A step holds up all that its worker computes, as every step does; so to let other work be done is to let it go on.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = str(folder)
        for name in ("steps", "go"):
            os.mkfifo(folder / name)
        self._steps, self._go = (os.open(folder / name, os.O_RDWR) for name in ("steps", "go"))

    def hear(self) -> str:
        return os.read(self._steps, 1).decode()

    def let(self, count: int) -> None:
        os.write(self._go, b"x" * count)

    def step_until(self, done: Callable[[], bool]) -> None:
        """Let it go on step by step until something else is done, and stop it within a step."""
        while not done():
            self.let(1)
            assert self.hear() == "s", "there were enough steps"


def ended(*futures: Future[Any]) -> Callable[[], bool]:
    """Return what waits a moment for all of `futures`, and says whether they are done."""
    return lambda: not wait(futures, timeout=0.02).not_done


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def picture(number: int) -> v1.Input:
    array_ = pixels(number)
    return v1.Input(tensor=v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=array_.shape, data=array_.tobytes()))


def asked(*numbers: int, **options: str) -> v1.ExplainRequest:
    method = v1.MethodCall(name="faulty", options=dict_to_struct(options))
    return v1.ExplainRequest(methods=[method], inputs=[picture(number) for number in numbers])


def inferred(number: int, **options: str) -> oip.ModelInferRequest:
    parameters = {f"option.{name}": value for name, value in options.items()}
    return infer("net.faulty", parameters=parameters, outputs={"MAP": {}}, IMAGE=pixels(number)[None])


def maps_of(answer: v1.ExplainResponse) -> list[bytes]:
    return [one.explained.explanations[0].artifacts[0].tensor.data for one in answer.results]


class InFlight:
    """A call of each kind, which wait until the test lets them go; streams stay open behind their answers."""

    def __init__(self, running: Site, attributions: Gate, long: LongGate) -> None:
        self._attributions, self._long = attributions, long
        stub, infers = running.stub, Stub(running.channel)
        given = {"folder": attributions.folder}
        synthesis = v1.SynthesizeRequest(
            method=v1.MethodCall(
                name="brightening", seed=1, options=dict_to_struct({"folder": long.folder, "steps": STEPS})
            ),
            targets=[v1.Target(class_index=1)],
            inputs=[picture(0)],
        )
        self.synthesis = stub.Synthesize(synthesis, timeout=120)
        inspection = v1.InspectRequest(method=v1.MethodCall(name="counting"), inputs=[picture(0)])
        self.inspection = stub.Inspect(inspection, timeout=120)
        sync(stub)
        self.explain = stub.Explain.future(asked(0, **given), timeout=120)
        sync(stub)
        self.infer = infers.ModelInfer.future(inferred(1, **given), timeout=120)
        sync(stub)
        self._open = [Open(), Open()]
        wrapped = v1.StreamExplainRequest(id="mine", request=asked(2, **given, note="of a stream"))
        self.stream = stub.StreamExplain(self._open[0].after(wrapped), timeout=120)
        note = inferred(3, **given, note="of the other stream")
        self.infer_stream = infers.ModelStreamInfer(self._open[1].after(note), timeout=120)
        for each in self._open:
            each.taken()
        sync(stub)

    def maps(self) -> list[bytes]:
        """Return the map of each picture, and wait for no end of any stream."""
        streamed = next(self.infer_stream)
        assert streamed.error_message == ""
        return [
            *maps_of(self.explain.result()),
            array(self.infer.result(), "MAP").tobytes(),
            *maps_of(next(self.stream).response),
            array(streamed.infer_response, "MAP").tobytes(),
        ]

    def let_attributions_go(self) -> None:
        self._attributions.let(1000)

    def synthesised(self) -> v1.SynthesisResult:
        """Let the synthesis go on to its end, and return its result."""
        self._long.let(STEPS)
        *_, last = self.synthesis
        assert not last.result.HasField("error")
        return last.result

    def hang_up(self) -> None:
        """Leave the gates open for whatever a test that failed has left there."""
        self._attributions.let(1000)
        self._long.let(STEPS)
        for each in self._open:
            each.end()


class Open:
    """Messages of a stream that does not end by itself."""

    def __init__(self) -> None:
        self._ends = os.pipe()
        self._taken = os.pipe()

    def after(self, first: Any) -> Iterator[Any]:
        yield first
        os.write(self._taken[1], b"x")
        os.read(self._ends[0], 1)

    def taken(self) -> None:
        """Return when gRPC has asked for the message behind the first."""
        os.read(self._taken[0], 1)

    def end(self) -> None:
        os.write(self._ends[1], b"x")


def sync(stub: explanation_pb2_grpc.ExplanationServiceStub) -> None:
    """Return when the worker knows of what was asked until now: what is asked here is refused behind it."""
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Explain(request(0, unknown="option"), timeout=120)
        assert reason_of(caught.value) == "OPTION_INVALID"


def sample(server: RunningServer, name: str, **labels: str) -> float:
    found = re.search(r"metrics at ([^\s\"]+)", server.log)
    assert found
    with urllib.request.urlopen(found[1], timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in samples if labels.items() <= one.labels.items())


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[tuple[Gate, LongGate]]:
    with Gate.open(tmp_path / "attributions") as attributions:
        yield attributions, LongGate(tmp_path / "long")


def test_a_server_that_is_told_to_stop_answers_a_call_of_each_kind_before_it_does(
    tmp_path: Path, gates: tuple[Gate, LongGate]
) -> None:
    """All but two wait for company that would come in a minute: the drain does not wait for it."""
    sections = {
        "batching": {"max_batch": 2, "max_delay_seconds": 60},
        "server": {"drain_seconds": 240},
        "metrics": {"port": 0},
    }
    with serving(tmp_path, **sections) as running, ThreadPoolExecutor() as threads:
        expected = [one for pair in ((0, 1), (2, 3)) for one in maps_of(running.stub.Explain(asked(*pair)))]
        assert len(set(expected)) == 4
        watch = running.health.Watch(health_pb2.HealthCheckRequest(), timeout=120)
        assert next(watch).status == SERVING
        calls = InFlight(running, *gates)
        assert gates[0].hear() == "compute 2", "the call of either protocol, together"

        running.server.signal()
        assert next(watch).status == NOT_SERVING
        infers = Stub(running.channel)
        refused = (
            lambda: running.stub.Explain(asked(0), timeout=60),
            lambda: next(running.stub.StreamExplain(iter([]), timeout=60)),
            lambda: next(running.stub.Synthesize(v1.SynthesizeRequest(), timeout=60)),
            lambda: next(running.stub.Inspect(v1.InspectRequest(), timeout=60)),
            lambda: running.stub.Evaluate(v1.EvaluateRequest(), timeout=60),
            lambda: infers.ModelInfer(inferred(0), timeout=60),
            lambda: next(infers.ModelStreamInfer(iter([]), timeout=60)),
        )
        for ask in refused:
            with pytest.raises(grpc.RpcError) as caught:
                ask()
            assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert told_when_to_come_again(caught.value)
        assert not infers.ServerReady(oip.ServerReadyRequest()).ready
        assert not infers.ModelReady(oip.ModelReadyRequest(name="net.faulty")).ready
        assert infers.ServerLive(oip.ServerLiveRequest()).live
        lives = running.health.Check(health_pb2.HealthCheckRequest(service="liveness"))
        assert lives.status == SERVING
        assert not calls.explain.done(), "all of it while calls are in flight"

        calls.let_attributions_go()
        answers, looked_at = threads.submit(calls.maps), threads.submit(list, calls.inspection)
        gates[1].step_until(ended(answers, looked_at))
        assert answers.result() == expected
        assert looked_at.result()[-1].HasField("result")
        # The synthesis holds the door open, so that there is somebody to ask.
        assert sample(running.server, "whylight_ready") == 0
        closed = {
            reason: sample(running.server, "whylight_batches_total", reason=reason) for reason in ("full", "draining")
        }
        assert closed["full"] == 3, "the two of what was to be expected, and the one that was computed"
        assert closed["draining"] >= 2
        assert calls.synthesised().model == "net"
        for stream in (calls.stream, calls.infer_stream):
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        calls.hang_up()
        assert running.server.wait(120) == 0
        assert "cut off" not in running.server.log
        assert "ERROR" not in running.server.log


def test_a_model_that_is_changed_answers_a_call_of_each_kind_by_the_version_that_it_came_for(
    tmp_path: Path, gates: tuple[Gate, LongGate]
) -> None:
    with serving(tmp_path, batching={"max_batch": 4}) as running, ThreadPoolExecutor() as threads:
        before = running.stub.Explain(asked(0, 1, 2, 3))
        calls = InFlight(running, *gates)
        assert gates[0].hear().startswith("compute"), "some of it has begun, and all of it has come"
        write_file(running.file, net(1))
        changing = threads.submit(running.change, "Reload")
        calls.let_attributions_go()
        answers = threads.submit(calls.maps)
        gates[1].step_until(ended(answers))
        assert answers.result() == maps_of(before)
        assert calls.explain.result().model_digest == before.model_digest
        gates[1].step_until(lambda: running.models()["net"].digest != before.model_digest)
        asking = threads.submit(running.stub.Explain, asked(0, 1, 2, 3), timeout=120)
        gates[1].step_until(ended(asking))
        after = asking.result()
        assert after.model_digest != before.model_digest
        assert not set(maps_of(after)) & set(maps_of(before))
        assert calls.synthesised().model_digest == before.model_digest, "whose steps went on beside the other version"
        *_, counted = calls.inspection
        assert counted.HasField("result")
        told = changing.result()
        assert (told[-1].state, told[-1].digest) == (catalog_pb2.MODEL_STATE_READY, after.model_digest)
        calls.hang_up()
        for stream in (calls.stream, calls.infer_stream):
            assert list(stream) == []
        assert running.server.stop() == 0
