"""A plugin that fails in every way there is: typed errors for its callers, and everybody else has their own bits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
import psutil
import pytest
from fault_serving import bits, reason_of, request, serving, sync, told_when_to_come_again
from grpc_health.v1 import health_pb2, health_pb2_grpc

from whylight.testing.server import RunningServer
from whylight.v1 import explanation_pb2_grpc

NEIGHBOURS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    worker = {"stuck_after_seconds": 20.0}  # the machine may be busy: some honest steps take long
    with serving(tmp_path_factory.mktemp("faults"), worker=worker, batching={"max_batch": 4}) as running:
        yield running


@pytest.fixture(scope="module")
def expected(stub: explanation_pb2_grpc.ExplanationServiceStub) -> list[tuple[bytes, bytes]]:
    return bits(stub.Explain(request(*range(NEIGHBOURS), method="saliency"), timeout=120))


def ask_neighbours(stub: explanation_pb2_grpc.ExplanationServiceStub) -> list[grpc.Future]:
    return [stub.Explain.future(request(n, method="saliency"), timeout=120) for n in range(NEIGHBOURS)]


@contextlib.contextmanager
def health_watched(channel: grpc.Channel) -> Iterator[grpc.Call]:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=280)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    yield watch
    watch.cancel()


@pytest.mark.parametrize(
    ("how", "reason"),
    [("raise", "METHOD_FAILED"), ("exit", "METHOD_FAILED"), ("memory", "OUT_OF_MEMORY"), ("eat", "OUT_OF_MEMORY")],
)
def test_a_plugin_that_fails_fails_its_own_calls_only(stub, server: RunningServer, expected, how: str, reason: str):
    (worker,) = psutil.Process(server.pid).children()
    failing = [stub.Explain.future(request(0, 1, how=how), timeout=120)]
    neighbours = ask_neighbours(stub)
    for call in failing:
        errors = [result.error for result in call.result().results]
        assert [error.reason for error in errors] == [reason] * 2
        assert "secret" not in str(errors)
    assert [bits(call.result())[0] for call in neighbours] == expected
    assert [child.pid for child in psutil.Process(server.pid).children()] == [worker.pid], "it goes on"


def test_a_batch_that_memory_is_too_small_for_is_halved(stub, expected):
    alone = [bits(stub.Explain(request(n), timeout=120))[0] for n in range(4)]
    assert bits(stub.Explain(request(0, 1, 2, 3, how="halve"), timeout=120)) == alone


@pytest.mark.parametrize("how", ["os-exit", "segfault", "hang"])
def test_a_plugin_that_takes_the_process_with_it_or_hangs(
    stub, channel: grpc.Channel, server: RunningServer, expected, how: str
):
    """Who hangs is found though plans are still answered, which another thread of the worker does."""
    (worker,) = psutil.Process(server.pid).children()
    with health_watched(channel) as watch:
        failing = stub.Explain.future(request(0, how=how), timeout=120)
        impatient = stub.Explain.future(request(1, how="hang", note="another plan"), timeout=0.5)
        neighbours = ask_neighbours(stub)
        while not failing.done():
            with contextlib.suppress(AssertionError):  # the worker is being started again: another refusal
                sync(stub)
        error = failing.exception()
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
        assert told_when_to_come_again(error)
        assert impatient.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        lost = 0
        for number, call in enumerate(neighbours):
            error = call.exception()
            if error is None:
                assert bits(call.result()) == [expected[number]]
            else:
                assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
                assert told_when_to_come_again(error)
                lost += 1
        assert lost <= 4, "those of the batch that was at the worker beside it"
    assert bits(stub.Explain(request(*range(NEIGHBOURS), method="saliency"), timeout=120)) == expected
    (successor,) = psutil.Process(server.pid).children()
    assert successor.pid != worker.pid
    assert not psutil.pid_exists(worker.pid)
