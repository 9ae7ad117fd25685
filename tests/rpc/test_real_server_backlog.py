"""More calls than the front end gets round to: it answers each in the end, with a reason, and gRPC none for it."""

from __future__ import annotations

import io
import signal
from collections import Counter

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from whylight.testing.server import running_server
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc

MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}
BOUNDS = {"queue": {"items": 64}, "limits": {"inputs": 64}, "server": {"calls_per_connection": 4096}}


def test_calls_that_come_while_the_front_end_stands_still_get_a_typed_answer_each():
    """gRPC by itself cancels some of them from the thousandth on; it waits for nothing but what has a place."""
    file = io.BytesIO()
    Image.effect_noise((32, 24), 60).convert("RGB").save(file, "JPEG")
    request = v1.ExplainRequest(methods=[v1.MethodCall(name="grad-cam")], inputs=[v1.Input(image=file.getvalue())])
    with (
        running_server(models=[MODEL], worker={"devices": ["cpu"], "threads": 1}, **BOUNDS) as server,
        grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel,
    ):
        stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
        stub.Explain(request, timeout=60)
        server.signal(signal.SIGSTOP)
        try:
            calls = [stub.Explain.future(request, timeout=240) for _ in range(2000)]
        finally:
            server.signal(signal.SIGCONT)
        reasons: Counter[str] = Counter()
        for call in calls:
            error = call.exception()
            if error is None:
                reasons["answered"] += 1
                continue
            status = rpc_status.from_call(error)
            assert status is not None, error
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            assert [detail.Unpack(info) or detail.Unpack(retry) for detail in status.details] == [True, True]
            assert retry.retry_delay.ToMilliseconds() > 0
            reasons[info.reason] += 1
    assert reasons.keys() <= {"answered", "QUEUE_FULL"}
    assert reasons.total() == 2000
    assert reasons["answered"] > 0
