"""Two workers and three models, of which one is for both: work goes where there is room, and a worker that is lost or
held takes nothing from what the other one has."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import faulty_plugin
import grpc
import pytest
from fault_serving import Gate, bits, reason_of, request
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families
from test_real_server_models import SERVICE, Site, net, site

from whylight.v1 import explanation_pb2 as v1

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("workers")
    faulty_plugin.install(folder)
    models = (net(0, "first", workers=[0]), net(1, "second", workers=[1]), net(2, "both"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        plugins = {"only": ["faulty", "gradients"]}
        with site(folder, *models, devices=2, plugins=plugins, batching={"max_batch": 4}, metrics={"port": 0}) as made:
            yield made


@pytest.fixture(scope="module")
def expected(running: Site) -> dict[str, list[tuple[bytes, bytes]]]:
    return {name: bits(running.stub.Explain(of(name, *range(8)))) for name in ("first", "second", "both")}


def of(model: str, *numbers: int, **options: str) -> v1.ExplainRequest:
    sent = request(*numbers, **options)
    sent.model = model
    return sent


def sync(running: Site) -> None:
    """Return when both workers know of what was asked until now."""
    for model in ("first", "second"):
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                running.stub.Explain(of(model, 0, unknown="option"), timeout=60)
            assert reason_of(caught.value) == "OPTION_INVALID"


def batches(running: Site) -> float:
    """Return how many batches workers have said to be done with."""
    found = re.search(r"metrics at ([^\s\"]+)", running.server.log)
    assert found
    with urllib.request.urlopen(found[1], timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return sum(one.value for family in families for one in family.samples if one.name == "whylight_batches_total")


def wait_for_batches(running: Site, count: float) -> None:
    end = time.monotonic() + 120
    while batches(running) < count:
        assert time.monotonic() < end


def ask_alone(running: Site, model: str, number: int) -> list[tuple[bytes, bytes]]:
    """Ask for a picture, and wait until its worker counts as free again: an answer is sent before that is said."""
    before = batches(running)
    found = bits(running.stub.Explain(of(model, number), timeout=60))
    wait_for_batches(running, before + 1)
    return found


@contextlib.contextmanager
def gate_in(folder: Path) -> Iterator[Gate]:
    with Gate.open(folder) as gate:
        try:
            yield gate
        finally:
            gate.let(1000)


@pytest.mark.parametrize("busy", [0, 1])
def test_work_goes_to_the_worker_that_has_the_model_and_least_to_do(
    running: Site, expected: dict[str, list[tuple[bytes, bytes]]], tmp_path: Path, busy: int
) -> None:
    mine, other = [("first", "second"), ("second", "first")][busy]
    with gate_in(tmp_path / "one") as one, gate_in(tmp_path / "two") as two:
        held = running.stub.Explain.future(of(mine, 0, folder=one.folder), timeout=120)
        assert one.hear() == "compute 1"
        for number in range(8):  # were one of them sent to the worker that is held, it would not come back
            assert ask_alone(running, "both", number) == [expected["both"][number]]
            assert ask_alone(running, other, number) == [expected[other][number]]
        only = running.stub.Explain.future(of(mine, 1), timeout=120)
        held_too = running.stub.Explain.future(of("both", 0, folder=two.folder), timeout=120)
        assert two.hear() == "compute 1", "beside the one that is held"
        sync(running)
        assert not only.done(), "nobody else has its model"
        before = batches(running)
        one.let(2)
        assert bits(held.result()) == [expected[mine][0]]
        assert bits(only.result()) == [expected[mine][1]]
        wait_for_batches(running, before + 2)
        for number in range(8):
            assert ask_alone(running, "both", number) == [expected["both"][number]]
        assert not held_too.done()
        two.let(2)
        assert bits(held_too.result()) == [expected["both"][0]]


def test_a_worker_that_is_lost_takes_nothing_from_what_the_other_has(
    running: Site, expected: dict[str, list[tuple[bytes, bytes]]], tmp_path: Path
) -> None:
    watches = {
        name: running.health.Watch(health_pb2.HealthCheckRequest(service=f"{SERVICE}/{name}"), timeout=120)
        for name in ("first", "second", "both")
    }
    assert [next(watch).status for watch in watches.values()] == [SERVING] * 3
    told: dict[str, list[int]] = {"second": [], "both": []}

    def read(name: str) -> None:
        with contextlib.suppress(grpc.RpcError):
            for answer in watches[name]:
                told[name].append(answer.status)

    readers = {name: threading.Thread(target=read, args=(name,)) for name in told}
    for reader in readers.values():
        reader.start()
    with gate_in(tmp_path / "second") as gate:
        survivor = running.stub.Explain.future(of("second", 0, folder=gate.folder), timeout=120)
        assert gate.hear() == "compute 1"
        behind = running.stub.Explain.future(of("second", 1), timeout=120)
        with pytest.raises(grpc.RpcError) as caught:
            running.stub.Explain(of("first", 0, how="segfault"), timeout=120)
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
        assert next(watches["first"]).status == NOT_SERVING
        assert not survivor.done()
        gate.let(2)
        assert bits(survivor.result()) == [expected["second"][0]]
        assert bits(behind.result()) == [expected["second"][1]]
    for number in range(8):  # while the other one is started again, or is there again
        for name in ("second", "both"):
            assert bits(running.stub.Explain(of(name, number), timeout=60)) == [expected[name][number]]
    assert next(watches["first"]).status == SERVING
    assert bits(running.stub.Explain(of("first", *range(8)), timeout=60)) == expected["first"]
    for name in ("second", "both"):
        watches[name].cancel()
        readers[name].join(60)
    assert told == {"second": [], "both": []}, "who was served all the while was never said not to be"
    watches["first"].cancel()
