"""The real server under hardship: a worker or the front end killed under load, answers that outgrow every bound."""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Iterator

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from whylight.testing.server import RunningServer, running_server
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc

MODEL = {"name": "resnet18", "source": "torchvision:resnet18", "weights": "random:0"}
WORKER = {"devices": ["cpu"], "threads": 1, "restart_backoff_seconds": 0.01}


def picture(shade: int, side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).point(lambda value: min(255, value + shade)).save(file, "PNG")
    return file.getvalue()


def request(shade: int, method: str = "grad-cam") -> v1.ExplainRequest:
    return v1.ExplainRequest(methods=[v1.MethodCall(name=method)], inputs=[v1.Input(image=picture(shade))])


def map_of(answer: v1.ExplainResponse) -> bytes:
    return answer.results[0].explained.explanations[0].artifacts[0].tensor.data


def reason_of(error: grpc.RpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    return info.reason


@contextlib.contextmanager
def serving(
    **sections,
) -> Iterator[tuple[RunningServer, grpc.Channel, explanation_pb2_grpc.ExplanationServiceStub]]:
    with (
        running_server(models=[MODEL], worker=WORKER, **sections) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield server, channel, explanation_pb2_grpc.ExplanationServiceStub(channel)


def test_kill_9_under_load_costs_two_batches_and_nothing_else():
    with serving(batching={"max_batch": 4}) as (server, channel, stub):
        expected = [map_of(stub.Explain(request(shade), timeout=60)) for shade in range(8)]
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=120)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        (worker,) = psutil.Process(server.pid).children()
        calls = [stub.Explain.future(request(number % 8), timeout=120) for number in range(60)]
        calls[3].result()
        worker.kill()
        lost = 0
        for number, call in enumerate(calls):
            error = call.exception()
            if error is None:
                assert map_of(call.result()) == expected[number % 8]
            else:
                assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
                lost += 1
        assert 0 < lost < 60
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        assert [map_of(stub.Explain(request(shade), timeout=60)) for shade in range(8)] == expected


def test_no_worker_outlives_a_front_end_that_was_killed():
    with serving() as (server, _, stub):
        workers = psutil.Process(server.pid).children(recursive=True)
        calls = [stub.Explain.future(request(number, "saliency"), timeout=60) for number in range(50)]
        calls[0].result()
        server.signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert workers
        assert not alive
        assert server.wait() == -signal.SIGKILL


def test_an_answer_that_is_too_large_is_never_held():
    """96 maps of 4 MiB are asked of a server that may answer with 16 MiB. It must not even begin to collect them."""
    with serving(server={"response_bytes": 16 * 2**20}) as (server, _, stub):
        stub.Explain(request(0), timeout=60)
        sent = v1.ExplainRequest(
            methods=[v1.MethodCall(name="grad-cam")],
            inputs=[v1.Input(image=picture(0, 1024))] * 96,
            outputs=[v1.OutputSpec(map=v1.MapOutput(canvas=v1.CANVAS_ORIGINAL))],
        )
        before = peak_memory(server.pid)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Explain(sent, timeout=120)
        assert (caught.value.code(), reason_of(caught.value)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "RESPONSE_TOO_LARGE",
        )
        assert peak_memory(server.pid) - before < 192 * 2**20
        assert map_of(stub.Explain(request(0), timeout=60))


def test_a_client_that_goes_away_while_it_is_written_to_is_no_fault_of_ours():
    """It reads one answer of a stream and no more, so that the server is in the middle of writing when it leaves."""
    sent = v1.ExplainRequest(
        methods=[v1.MethodCall(name="grad-cam")],
        inputs=[v1.Input(image=picture(0, 1000))],
        outputs=[v1.OutputSpec(map=v1.MapOutput(canvas=v1.CANVAS_ORIGINAL))],  # 4 MiB
    )
    with serving(server={"stream_window": 4}) as (server, _, stub):
        for _ in range(4):
            answers = stub.StreamExplain(v1.StreamExplainRequest(id=str(n), request=sent) for n in range(100))
            next(answers)
            # Answered behind everything that the window lets through: by now the stream is full.
            for shade in range(3):
                assert map_of(stub.Explain(request(shade), timeout=60))
            answers.cancel()
        assert map_of(stub.Explain(request(0), timeout=60))
        assert server.stop() == 0
        assert "ERROR" not in server.log


def peak_memory(pid: int) -> int:
    """Most bytes of memory that a process has had."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
