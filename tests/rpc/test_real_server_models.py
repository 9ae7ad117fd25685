"""The real server while its models change under load: several models and workers, reload, unload, SIGTERM."""

from __future__ import annotations

import collections
import contextlib
import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

import whylight
from whylight.testing.server import RunningServer, running_server
from whylight.v1 import admin_pb2, admin_pb2_grpc, catalog_pb2, catalog_pb2_grpc, explanation_pb2_grpc
from whylight.v1 import explanation_pb2 as v1

NET = "python:whylight.testing.networks:conv_gap_net"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "whylight.v1.ExplanationService"


def write_file(path: Path, *models: dict[str, Any], devices: int = 1) -> None:
    """Write a configuration, in one step: the server may read it at any time."""
    lines = []
    for model in models:
        lines += ["[[models]]", *(f"{key} = {value!r}" for key, value in model.items()), ""]
    lines += ["[worker]", f"devices = {['cpu'] * devices!r}", "threads = 1", "restart_backoff_seconds = 0.01"]
    lines += ["[admin]", f"socket = '{path.parent}/admin.sock'", "[plugins]", "only = ['cam', 'gradients']"]
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines))
    new.replace(path)


def net(seed: int, name: str = "net", **others: Any) -> dict[str, Any]:
    return {"name": name, "source": NET, "weights": f"random:{seed}", "input_size": [32, 48], **others}


class Site:
    """A server with its file and its administrator."""

    def __init__(self, server: RunningServer, file: Path) -> None:
        self.server = server
        self.file = file
        self.channel = grpc.insecure_channel(server.address)
        self.admin_channel = grpc.insecure_channel(f"unix:{file.parent}/admin.sock")
        self.stub = explanation_pb2_grpc.ExplanationServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.admin_channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def change(self, verb: str, name: str = "net") -> list[admin_pb2.ModelStatus]:
        request = getattr(admin_pb2, f"{verb}ModelRequest")(name=name)
        return [told.model for told in getattr(self.admin, f"{verb}Model")(request, timeout=120)]

    def wait_for_workers(self, count: int, name: str = "net") -> None:
        """Return when so many workers have the model; there is nothing to watch, so it asks again and again."""
        end = time.monotonic() + 180
        while True:
            told = self.admin.ListModels(admin_pb2.AdminServiceListModelsRequest()).models
            (workers,) = (model.workers for model in told if model.name == name)
            if sum(worker.up and len(worker.generations) == 1 for worker in workers) == count:
                return
            assert time.monotonic() < end, f"these are not up: {workers}"
            time.sleep(0.02)

    def models(self) -> dict[str, catalog_pb2.Model]:
        listed = catalog_pb2_grpc.CatalogServiceStub(self.channel).ListModels(catalog_pb2.ListModelsRequest())
        return {model.name: model for model in listed.models}

    def close(self) -> None:
        self.channel.close()
        self.admin_channel.close()


@contextlib.contextmanager
def site(folder: Path, *models: dict[str, Any], devices: int = 1, **sections: Any) -> Iterator[Site]:
    file = folder / "whylight.toml"
    write_file(file, *models, devices=devices)
    with running_server(config=str(file), **sections) as server:
        running = Site(server, file)
        try:
            yield running
        finally:
            running.close()


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((48, 32)).point(lambda value: min(255, value + shade)).save(file, "PNG")
    return file.getvalue()


def request(shade: int, inputs: int = 1, model: str = "net") -> v1.ExplainRequest:
    return v1.ExplainRequest(
        model=model,
        methods=[v1.MethodCall(name="grad-cam")],
        inputs=[v1.Input(image=picture(shade + place)) for place in range(inputs)],
    )


def bits(answer: v1.ExplainResponse) -> tuple[bytes, ...]:
    return tuple(result.explained.explanations[0].artifacts[0].tensor.data for result in answer.results)


def turned_away(error: grpc.RpcError) -> bool:
    """Whether a server that stops did not let a call in: it said so, or listens no more where a client was slow."""
    if rpc_status.from_call(error) is None:
        return error.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in error.details()
    return reason_of(error) == "DRAINING"


def reason_of(error: grpc.RpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    return info.reason


class Clients:
    """Several clients that call without a pause until they are told to stop, each over a connection of its own."""

    def __init__(self, address: str, ask: Callable[[explanation_pb2_grpc.ExplanationServiceStub, int], Any]) -> None:
        self.answers: list[Any] = []
        self.failures: list[grpc.RpcError] = []
        self._ask = ask
        self._address = address
        self._stop = threading.Event()
        self._warm = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(4)]

    def _run(self, number: int) -> None:
        with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
            asked = 0
            while not self._stop.is_set():
                try:
                    self.answers.append(self._ask(stub, asked))
                except grpc.RpcError as error:
                    self.failures.append(error)
                    if turned_away(error):
                        return
                asked += 1
                self._warm.release()

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        self.more(20)
        return self

    def more(self, count: int) -> None:
        """Wait until so many calls more have ended."""
        for _ in range(count):
            assert self._warm.acquire(timeout=60)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.join()


def test_a_reload_under_load_fails_no_call_and_mixes_no_versions(tmp_path: Path) -> None:
    with site(tmp_path, net(0), devices=2, batching={"max_batch": 4}) as running:
        expected: dict[str, dict[int, tuple[bytes, ...]]] = {}

        def learn() -> None:
            for shade in range(0, 12, 3):
                answer = running.stub.Explain(request(shade, 3))
                expected.setdefault(answer.model_digest, {})[shade] = bits(answer)

        learn()
        running.wait_for_workers(2)  # the first to be up makes the server ready; a reload waits for those that are
        with Clients(running.server.address, lambda stub, n: stub.Explain(request(n % 4 * 3, 3), timeout=120)) as load:
            for seed in (1, 2, 0):
                write_file(running.file, net(seed), devices=2)
                told = running.change("Reload")
                assert [one.state for one in told] == [catalog_pb2.MODEL_STATE_READY] * len(told)
                assert [list(worker.generations) for worker in told[-1].workers] == [[told[-1].generation]] * 2
                load.more(20)
                learn()
        assert load.failures == []
        assert len(expected) == 3
        seen = collections.Counter(answer.model_digest for answer in load.answers)
        assert set(seen) == set(expected), "every version answered some of the calls"
        known = {digest: set(of.values()) for digest, of in expected.items()}
        assert len({answer for of in known.values() for answer in of}) == 12, "each version has bits of its own"
        for answer in load.answers:
            assert bits(answer) in known[answer.model_digest]
        assert running.server.stop() == 0


def test_a_stream_that_stays_open_over_a_reload_is_answered_by_both_versions(tmp_path: Path) -> None:
    with site(tmp_path, net(0)) as running:
        go_on = threading.Event()

        def requests() -> Iterator[v1.StreamExplainRequest]:
            yield v1.StreamExplainRequest(id="before", request=request(0))
            assert go_on.wait(60)
            yield v1.StreamExplainRequest(id="after", request=request(0))

        answers = running.stub.StreamExplain(requests())
        before = next(answers).response
        write_file(running.file, net(1))
        (*_, status) = running.change("Reload")
        go_on.set()
        after = next(answers).response
        assert before.model_digest != after.model_digest == status.digest
        assert bits(before) != bits(after)


def test_a_reload_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    with site(tmp_path, net(0)) as running:
        before = running.stub.Explain(request(0))
        write_file(running.file, {**net(0), "weights": f"{tmp_path}/absent.safetensors"})
        with pytest.raises(grpc.RpcError) as caught:
            running.change("Reload")
        assert (caught.value.code(), reason_of(caught.value)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "MODEL_LOAD_FAILED",
        )
        assert "absent.safetensors" in caught.value.details()
        assert bits(running.stub.Explain(request(0))) == bits(before)
        running.file.write_text("[[models")
        with pytest.raises(grpc.RpcError) as caught:
            running.change("Reload")
        assert reason_of(caught.value) == "CONFIGURATION_INVALID"
        assert bits(running.stub.Explain(request(0))) == bits(before)


def test_models_have_their_own_workers_and_their_own_health(tmp_path: Path) -> None:
    models = (net(0, "a", workers=[0]), net(1, "b", workers=[1]), net(2, "later", workers=[1], load=False))
    text = {"devices": 2}
    with site(tmp_path, *(_toml(model) for model in models), **text) as running:
        states = {name: model.state for name, model in running.models().items()}
        assert states == {
            "a": catalog_pb2.MODEL_STATE_READY,
            "b": catalog_pb2.MODEL_STATE_READY,
            "later": catalog_pb2.MODEL_STATE_UNLOADED,
        }
        assert bits(running.stub.Explain(request(0, model="a"))) != bits(running.stub.Explain(request(0, model="b")))
        watch = running.health.Watch(health_pb2.HealthCheckRequest(service=f"{SERVICE}/later"), timeout=120)
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            running.stub.Explain(request(0, model="later"))
        assert reason_of(caught.value) == "MODEL_NOT_LOADED"
        running.change("Load", "later")
        assert next(watch).status == SERVING
        assert running.stub.Explain(request(0, model="later")).model_digest == running.models()["later"].digest
        running.change("Unload", "later")
        assert next(watch).status == NOT_SERVING
        watch.cancel()
        whole = running.health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert whole.status == SERVING


def _toml(model: dict[str, Any]) -> dict[str, Any]:
    return {key: _Bool(value) if isinstance(value, bool) else value for key, value in model.items()}


class _Bool:
    """A truth value as TOML writes it."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __repr__(self) -> str:
        return str(self._value).lower()


def test_sigterm_under_load_drops_readiness_first_answers_what_has_begun_and_exits_with_0(tmp_path: Path) -> None:
    with site(tmp_path, net(0), server={"lame_duck_seconds": 0.5, "drain_seconds": 60}) as running:
        expected = {shade: bits(running.stub.Explain(request(shade, 2))) for shade in range(4)}
        watch = running.health.Watch(health_pb2.HealthCheckRequest(), timeout=120)
        assert next(watch).status == SERVING

        def ask(stub: explanation_pb2_grpc.ExplanationServiceStub, number: int) -> tuple[int, v1.ExplainResponse]:
            return number % 4, stub.Explain(request(number % 4, 2), timeout=120)

        with Clients(running.server.address, ask) as load:
            running.server.signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
            load.more(8)  # readiness is gone, and calls are answered still
            load.join()
        assert running.server.wait(60) == 0
        for shade, answer in load.answers:
            assert bits(answer) == expected[shade]
        assert all(turned_away(error) for error in load.failures), "turned away, never cut off"
        assert len(load.failures) == 4, "each client stopped at the door"
        assert "cut off" not in running.server.log


def test_a_rolling_restart_loses_no_call_of_our_client(tmp_path: Path) -> None:
    """Two servers behind one name, as a client of Kubernetes' sees them; one is stopped while four threads call."""
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    with site(folders[0], net(0), server={"lame_duck_seconds": 0.2}) as old, site(folders[1], net(1)) as new:
        digests = [running.models()["net"].digest for running in (old, new)]
        addresses = ",".join(running.server.address for running in (old, new))
        client = whylight.Client(f"ipv4:{addresses}", options={"grpc.lb_policy_name": "round_robin"}, deadline=120)
        answers: list[tuple[bool, str]] = []  # whether the old one had ended when the call began, and who answered
        failures: list[Exception] = []
        ended, gone, stop = threading.Semaphore(0), threading.Event(), threading.Event()

        def call() -> None:
            while not stop.is_set():
                late = gone.is_set()
                try:
                    answers.append((late, client.explain(picture(0)).model_digest))
                except Exception as error:
                    failures.append(error)
                ended.release()

        def answered_by(late: bool) -> list[str]:
            return [digest for began_late, digest in list(answers) if began_late is late]

        threads = [threading.Thread(target=call) for _ in range(4)]
        with client:
            for thread in threads:
                thread.start()
            while set(answered_by(late=False)) != set(digests):  # who is not connected yet gets no call
                assert ended.acquire(timeout=60)
            assert old.server.stop() == 0
            gone.set()
            while len(answered_by(late=True)) < 20 and not failures:
                assert ended.acquire(timeout=60)
            stop.set()
            for thread in threads:
                thread.join(60)
        assert failures == []
        assert set(answered_by(late=True)) == {digests[1]}, "the one that is left"
