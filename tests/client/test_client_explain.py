"""What a caller writes becomes the request; the response becomes what a caller reads; blocking and asyncio alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import whylight
from whylight.client import Input, MethodCall, Request
from whylight.client.evaluations import build_evaluation
from whylight.client.long_requests import LongRequest, build_inspection
from whylight.client.requests import build_request
from whylight.errors import InvalidInput, MethodFailed, NotFound
from whylight.target import ClassIndex, ClassLabel, Neuron, Rank
from whylight.v1 import explanation_pb2 as pb

PIXELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


class Blocking:
    """Lets one test speak to the blocking client as to the asyncio one."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        async def call(*arguments, **keywords):
            return getattr(self.client, name)(*arguments, **keywords)

        return call


@pytest.fixture(params=["blocking", "asyncio"])
def any_client(request, client, async_client):
    return Blocking(client) if request.param == "blocking" else async_client


async def test_one_image_gives_one_answer(any_client, server):
    explained = await any_client.explain(PIXELS, "grad-cam", target=3, options={"layer": "conv"}, seed=5)
    assert isinstance(explained, whylight.Explained)
    assert [prediction.label for prediction in explained.predictions] == [f"class {k}" for k in range(5)]
    explanation = explained.explanation
    assert explanation.method == "grad-cam"
    assert explanation.options == {"layer": "conv"}
    assert explanation.target == ClassIndex(3)
    assert explanation.seed == 5
    assert explanation.checks == {"residual": 0.25}
    assert explanation.execution.batch_size == 1
    np.testing.assert_array_equal(explanation.map, PIXELS[:2, :2, 0])
    (request,) = server.requests
    assert request.methods[0].seed == 5
    assert not request.outputs


async def test_several_images_keep_their_order_and_bad_ones_their_place(any_client):
    results = await any_client.explain([PIXELS, b"bad", b"1234"], top_predictions=0)
    assert isinstance(results[1], InvalidInput)
    assert results[1].reason == "IMAGE_UNREADABLE"
    assert results[1].violations[0].field == "inputs[1].image"
    assert results[0].explanation.map.shape == (2, 2)
    assert results[2].explanation.map.item() == 4
    assert results[0].predictions == ()


async def test_errors_are_raised_when_asked_for_and_for_a_single_image(any_client):
    with pytest.raises(InvalidInput, match="no picture"):
        await any_client.explain([PIXELS, b"bad"], raise_errors=True)
    with pytest.raises(InvalidInput, match="no picture"):
        await any_client.explain(b"bad")


async def test_list_of_one_gives_a_list(any_client):
    assert len(await any_client.explain([PIXELS])) == 1
    assert len(await any_client.explain((PIXELS,))) == 1


async def test_methods_times_targets(any_client):
    explained = await any_client.explain(
        PIXELS,
        ["grad-cam", MethodCall("smooth-grad", {"samples": 9}, seed=1)],
        target=[1, "dog"],
        options={"layer": "conv"},
        seed=2,
    )
    assert [(one.method, one.target, one.seed) for one in explained.explanations] == [
        ("grad-cam", ClassIndex(1), 2),
        ("grad-cam", ClassLabel("dog"), 2),
        ("smooth-grad", ClassIndex(1), 1),
        ("smooth-grad", ClassLabel("dog"), 1),
    ]
    assert explained.explanations[0].options == {"layer": "conv"}
    assert explained.explanations[2].options == {"samples": 9}


async def test_inputs_with_targets_of_their_own(any_client):
    results = await any_client.explain([Input(PIXELS, target=[8, 9]), PIXELS], target=1)
    assert [one.target for one in results[0].explanations] == [ClassIndex(8), ClassIndex(9)]
    assert [one.target for one in results[1].explanations] == [ClassIndex(1)]


async def test_outputs_come_by_name(any_client):
    outputs = [
        whylight.PictureOutput(name="why", format=whylight.PictureFormat.WEBP),
        whylight.BoxesOutput(),
        whylight.MapOutput(),
    ]
    explanation = (await any_client.explain(PIXELS, outputs=outputs)).explanation
    assert explanation["why"] is explanation.picture
    assert explanation.picture.media_type == "image/webp"
    assert explanation.boxes[0].right == 3.0
    assert explanation["map"].array.shape == (2, 2)


async def test_whole_call_fails_with_the_error_that_the_server_raised(any_client):
    with pytest.raises(NotFound) as caught:
        await any_client.explain(PIXELS, model="missing")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert caught.value.violations[0].field == "model"


async def test_answer_that_does_not_fit_the_question(any_client, server):
    server.answer = lambda request: pb.ExplainResponse()
    with pytest.raises(whylight.WhylightError) as caught:
        await any_client.explain(PIXELS)
    assert caught.value.reason == "RESPONSE_INVALID"


async def test_failed_method_arrives_as_such(any_client, server):
    server.failures = [MethodFailed("boom", metadata={"plugin": "cam", "method": "grad-cam"})]
    with pytest.raises(MethodFailed) as caught:
        await any_client.explain(PIXELS)
    assert caught.value.metadata == {"plugin": "cam", "method": "grad-cam"}


def test_every_form_of_a_picture(tmp_path):
    picture = Image.fromarray(PIXELS)
    file = io.BytesIO()
    picture.save(file, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(file.getvalue())
    floats = np.linspace(0, 1, 12).reshape(3, 2, 2)
    images = [path, str(path), file.getvalue(), picture, PIXELS, floats, np.float16(floats)]
    inputs = build_request(Request(images)).inputs
    assert [message.WhichOneof("data") for message in inputs] == ["image"] * 3 + ["tensor"] * 4
    assert {message.image for message in inputs[:3]} == {file.getvalue()}
    assert inputs[3] == inputs[4]
    assert [message.tensor.dtype for message in inputs[4:]] == [
        pb.DATA_TYPE_UINT8,
        pb.DATA_TYPE_FLOAT32,
        pb.DATA_TYPE_FLOAT16,
    ]


def test_pillow_image_is_turned_upright_as_the_server_turns_a_file():
    picture = Image.fromarray(PIXELS)
    picture.getexif()[0x0112] = 6
    (message,) = build_request(Request(picture)).inputs
    assert list(message.tensor.shape) == [4, 5, 3]


def test_large_pillow_image_travels_packed_and_whole():
    picture = Image.new("RGB", (2100, 2100), (1, 2, 3))
    (message,) = build_request(Request(picture)).inputs
    assert Image.open(io.BytesIO(message.image)).convert("RGB").tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (Request("nowhere.png"), "IMAGE_UNREADABLE", "inputs[0].image"),
        (Request([b"1", np.zeros((2, 2, 3), int)]), "TENSOR_INVALID", "inputs[1].tensor.dtype"),
        (Request(np.zeros((1, 2, 2, 3), np.uint8)), "TENSOR_INVALID", "inputs[0].tensor.shape"),
        (Request(np.zeros((2, 2), np.float32)), "TENSOR_INVALID", "inputs[0].tensor.shape"),
        (Request(Image.new("F", (2, 2))), "IMAGE_UNREADABLE", "inputs[0].image"),
        (Request(object()), "REQUEST_INVALID", "inputs[0]"),
        (Request(b"1", target=1.5), "TARGET_INVALID", "targets[0]"),
        (Request(b"1", target=[1, True]), "TARGET_INVALID", "targets[1]"),
        (Request(Input(b"1", target=[object()])), "TARGET_INVALID", "inputs[0].targets[0]"),
        (Request(b"1", options={"a": object()}), "OPTION_INVALID", "methods[0].options.a"),
        (Request(b"1", seed=-1), "REQUEST_INVALID", "methods[0].seed"),
        (Request(b"1", MethodCall("a"), seed=1), "REQUEST_INVALID", "methods[0]"),
        (Request(b"1", top_predictions=-1), "REQUEST_INVALID", "top_predictions"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_its_field(request_, reason, field):
    with pytest.raises(InvalidInput) as caught:
        build_request(request_)
    assert caught.value.reason == reason
    assert caught.value.violations[0].field == field


def test_targets_as_people_write_them():
    request = build_request(Request(b"1", target=[1, np.int64(2), "dog", Rank(1), Neuron("conv", 3)]))
    assert [target.WhichOneof("kind") for target in request.targets] == [
        "class_index",
        "class_index",
        "class_label",
        "rank",
        "neuron",
    ]


@pytest.mark.parametrize("given", ["bulk", whylight.Priority.BULK])
async def test_a_priority_is_sent_in_each_kind_of_call(any_client, server, given):
    await any_client.explain(PIXELS, priority=given)
    assert server.requests[-1].priority == pb.PRIORITY_BULK
    await any_client.explain(PIXELS)
    assert server.requests[-1].priority == pb.PRIORITY_UNSPECIFIED
    with pytest.raises(InvalidInput) as caught:
        await any_client.explain(PIXELS, priority="urgent")
    assert caught.value.violations[0].field == "priority"
    assert build_request(Request(PIXELS, priority=given)).priority == pb.PRIORITY_BULK
    metric = whylight.client.MetricCall("insertion")
    assert build_evaluation(Request(PIXELS, priority=given), metric, None).priority == pb.PRIORITY_BULK
    long = LongRequest("m", priority=given)
    assert build_inspection(long, max_bytes=10**6).priority == pb.PRIORITY_BULK


async def test_a_stream_sends_the_priority_of_each_of_its_requests(client, server):
    list(client.explain_many([PIXELS], priority="bulk"))
    assert server.requests[-1].priority == pb.PRIORITY_BULK
