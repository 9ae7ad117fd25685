"""The protocol against the real server: native numbers, shared batches, strangers' tools that get along with it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from conversations import ENVIRONMENTS, SERVER, Guarded, converse, guarded_server, python_of
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from infer_requests import Stub, array, infer, pixels
from PIL import Image

from whylight.open_inference import messages as oip
from whylight.testing.server import RunningServer, running_server
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc

BUF = Path(sys.executable).parent / "buf"
MODEL = "tiny.grad-cam"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(**SERVER) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as open_channel:
        yield open_channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


@pytest.fixture(scope="module")
def native(channel: grpc.Channel) -> explanation_pb2_grpc.ExplanationServiceStub:
    return explanation_pb2_grpc.ExplanationServiceStub(channel)


def native_request(seed: int = 0, **fields) -> v1.ExplainRequest:
    tensors = [
        v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=picture.shape, data=picture.tobytes()) for picture in pixels(2, seed)
    ]
    inputs = [v1.Input(tensor=tensor) for tensor in tensors]
    return v1.ExplainRequest(methods=[v1.MethodCall(name="grad-cam")], inputs=inputs, **fields)


def test_the_numbers_are_those_of_a_native_call(stub: Stub, native):
    ours = native.Explain(native_request(), timeout=60)
    theirs = stub.ModelInfer(infer(MODEL, IMAGE=pixels(2)), timeout=60)
    explained = [result.explained for result in ours.results]
    maps = [one.explanations[0].artifacts[0].tensor for one in explained]
    assert array(theirs, "MAP").tobytes() == b"".join(tensor.data for tensor in maps)
    assert array(theirs, "MAP").shape == (2, 1, *maps[0].shape)
    assert array(theirs, "TARGET_INDEX").ravel().tolist() == [
        one.explanations[0].target.class_index for one in explained
    ]
    scores = [[prediction.score for prediction in one.predictions] for one in explained]
    assert np.array_equal(array(theirs, "PREDICTED_SCORE"), np.array(scores, np.float32))
    assert theirs.parameters["model_digest"].string_param == ours.model_digest


def test_pictures_boxes_and_masks_are_those_of_a_native_call(stub: Stub, native):
    specs = [
        v1.OutputSpec(picture=v1.PictureOutput()),
        v1.OutputSpec(boxes=v1.BoxesOutput(limit=2)),
        v1.OutputSpec(mask=v1.MaskOutput()),
    ]
    targets = [v1.Target(class_index=1), v1.Target(class_index=3)]
    ours = native.Explain(native_request(outputs=specs, targets=targets), timeout=60)
    outputs = {"OVERLAY": {}, "BOXES": {"limit": 2}, "MASK": {}}
    request = infer(MODEL, outputs=outputs, parameters={"targets": "[1, 3]"}, IMAGE=pixels(2))
    theirs = stub.ModelInfer(request, timeout=60)
    for row, result in enumerate(ours.results):
        for column, explanation in enumerate(result.explained.explanations):
            picture, boxes, mask = explanation.artifacts
            assert array(theirs, "OVERLAY")[row, column] == picture.picture.data
            assert array(theirs, "MASK")[row, column].tobytes() == mask.tensor.data
            expected = [[box.left, box.top, box.right, box.bottom, box.score] for box in boxes.boxes.boxes]
            given = array(theirs, "BOXES")[row, column]
            assert np.array_equal(given[: len(expected)], np.array(expected, np.float32).reshape(-1, 5))
            assert not given[len(expected) :].any()


def test_every_way_to_send_a_picture_gives_the_same_bits(stub: Stub):
    picture = pixels()[0]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    numbers = np.random.default_rng(2).standard_normal((2, 3, 32, 48)).astype(np.float16)
    maps = [
        array(stub.ModelInfer(infer(MODEL, **tensors), timeout=60), "MAP").tobytes()
        for tensors in (
            {"IMAGE": picture},
            {"IMAGE": picture[None]},
            {"IMAGE_FILE": [file.getvalue()]},
            {"MODEL_INPUT": numbers},
            {"MODEL_INPUT": numbers.astype(np.float32)},
        )
    ]
    assert maps[0] == maps[1] == maps[2]
    assert maps[3] == maps[4]


@pytest.mark.parametrize("datatype", ["FP16", "UINT8"])
def test_maps_of_other_types(stub: Stub, datatype: str):
    outputs = {"MAP": {"datatype": datatype, "canvas": "input"}}
    answer = stub.ModelInfer(infer(MODEL, outputs=outputs, IMAGE=pixels(2)), timeout=60)
    assert answer.outputs[0].datatype == datatype
    assert array(answer, "MAP").shape == (2, 1, 224, 224)


def test_a_seed_makes_chance_repeatable_and_is_told(stub: Stub):
    outputs = {"MAP": {}, "EXPLANATION": {}}
    request = infer("tiny.smoothgrad", parameters={"seed": 5}, outputs=outputs)
    first, second = (stub.ModelInfer(request, timeout=60) for _ in range(2))
    assert array(first, "MAP").tobytes() == array(second, "MAP").tobytes()
    assert json.loads(array(first, "EXPLANATION")[0, 0])["seed"] == "5"


def test_calls_of_both_services_share_a_batch_and_kept_answers():
    batching = {"max_batch": 4, "max_delay_seconds": 20}  # a batch leaves when it is full, here of two from each
    cache = {"bytes": 1 << 20}
    with (
        running_server(**SERVER, batching=batching, response_cache=cache) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        native, stub = explanation_pb2_grpc.ExplanationServiceStub(channel), Stub(channel)
        request = infer(MODEL, outputs={"MAP": {}, "EXPLANATION": {}}, IMAGE=pixels(2, seed=1))
        future = stub.ModelInfer.future(request, timeout=120)
        ours = native.Explain(native_request(), timeout=120)
        theirs = future.result()
        again = native.Explain(native_request(seed=1), timeout=120)  # what only the other service was asked
    facts = [json.loads(fact)["execution"] for fact in array(theirs, "EXPLANATION").ravel()]
    executions, kept = (
        [result.explained.explanations[0].execution for result in answer.results] for answer in (ours, again)
    )
    assert [one["batch_size"] for one in facts] == [one.batch_size for one in executions] == [4, 4]
    assert not any(one.get("cached") for one in facts)
    assert not any(one.cached for one in executions)
    assert all(one.cached for one in kept)
    maps = [result.explained.explanations[0].artifacts[0].tensor.data for result in again.results]
    assert array(theirs, "MAP").tobytes() == b"".join(maps)


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (infer(MODEL, parameters={"option.layer": "nowhere"}), "NOT_FOUND", "LAYER_NOT_FOUND", None),
        (infer(MODEL, parameters={"option.layr": 1}), "INVALID_ARGUMENT", "OPTION_INVALID", "parameters[option.layr]"),
        (infer(MODEL, parameters={"target": 99}), "INVALID_ARGUMENT", "TARGET_INVALID", None),
        (infer(MODEL, IMAGE_FILE=[b"no picture"]), "INVALID_ARGUMENT", "IMAGE_UNREADABLE", "inputs[IMAGE_FILE][0]"),
        (infer("tiny.attention-rollout"), "FAILED_PRECONDITION", "METHOD_UNSUPPORTED", None),
        (infer(MODEL, outputs={"OVERLAY": {"canvas": "native"}}), "INVALID_ARGUMENT", "OUTPUT_INVALID", None),
    ],
    ids=["layer", "option", "target", "file", "method", "canvas"],
)
def test_what_a_worker_refuses_is_a_status_with_the_place(stub: Stub, request_, code: str, reason: str, field):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_, timeout=60)
    details = rpc_status.from_call(caught.value).details
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert details[0].Unpack(info)
    assert (caught.value.code().name, info.reason) == (code, reason)
    if field is not None:
        assert any(detail.Unpack(bad_request) for detail in details)
        assert [violation.field for violation in bad_request.field_violations] == [field]


def test_a_stream_of_three(stub: Stub):
    requests = [infer(name, id=name, IMAGE=pixels()) for name in (MODEL, "nobody", "tiny.saliency")]
    first, second, third = stub.ModelStreamInfer(iter(requests), timeout=60)
    assert [one.infer_response.id for one in (first, second, third)] == [MODEL, "nobody", "tiny.saliency"]
    assert (first.error_message, third.error_message) == ("", "")
    assert second.error_message.startswith("MODEL_NOT_FOUND")


def run_buf(url: str, message: dict, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [BUF, "curl", "--protocol", "grpc", "-d", json.dumps(message), *options, url]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)


def buf(server: RunningServer, method: str, message: dict) -> dict:
    done = run_buf(f"http://{server.address}/{method}", message, "--http2-prior-knowledge")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_buf_curl_finds_both_services_by_reflection(server: RunningServer):
    """The tool knows no schema: what it sends and prints, it learned of the server."""
    assert buf(server, f"{oip.SERVICE}/ServerReady", {}) == {"ready": True}
    described = buf(server, f"{oip.SERVICE}/ModelMetadata", {"name": MODEL})
    assert "MAP" in {one["name"] for one in described["outputs"]}
    listed = buf(server, "whylight.v1.CatalogService/ListModels", {})
    assert listed["models"][0]["name"] == "tiny"
    picture = {"uintContents": pixels()[0].ravel().tolist()}
    tensor = {"name": "IMAGE", "datatype": "UINT8", "shape": ["48", "64", "3"], "contents": picture}
    answer = buf(server, f"{oip.SERVICE}/ModelInfer", {"modelName": MODEL, "id": "7", "inputs": [tensor]})
    assert answer["id"] == "7"
    assert answer["outputs"][0]["name"] == "MAP"


@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_a_client_holds_its_conversation(server: RunningServer, client: str):
    if not python_of(client).exists():
        pytest.skip(f"no {client} in {ENVIRONMENTS}; scripts/check_open_inference_clients.sh puts it there")
    done = converse(client, server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("^ok: ", done.stdout, re.MULTILINE)) > 10


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_server(tmp_path_factory.mktemp("guarded")) as running:
        yield running


@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_a_client_shows_its_token_over_tls(guarded: Guarded, client: str):
    if not python_of(client).exists():
        pytest.skip(f"no {client} in {ENVIRONMENTS}; scripts/check_open_inference_clients.sh puts it there")
    done = converse(client, guarded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("^ok: ", done.stdout, re.MULTILINE)) > 5


def test_buf_curl_needs_a_token_for_reflection_and_another_scope_for_inference(guarded: Guarded):
    schema = Path(__file__).parents[2] / "proto"

    def ask(method: str, message: dict, token: str, *, reflect: bool = True) -> subprocess.CompletedProcess[str]:
        header = f"authorization: Bearer {token}"
        options = ["--cacert", guarded.ca] + (["--header", header] if token else [])
        if not reflect:
            options += ["--schema", schema]
        elif token:
            options += ["--reflect-header", header]
        return run_buf(f"https://{guarded.address}/{oip.SERVICE}/{method}", message, *options)

    described = ask("ModelMetadata", {"name": MODEL}, guarded.catalog)
    assert json.loads(described.stdout)["name"] == MODEL, described.stderr
    for token in ("", "whylight_wrong", guarded.explain):
        assert "failed to find service" in ask("ModelMetadata", {"name": MODEL}, token).stderr
    codes = {"": "unauthenticated", "whylight_wrong": "unauthenticated", guarded.catalog: "permission_denied"}
    for token, code in codes.items():
        refused = ask("ModelInfer", {"model_name": MODEL}, token, reflect=False)
        assert json.loads(refused.stderr)["code"] == code
        assert "tiny" not in refused.stderr
