"""A ModelInferRequest in native words, and errors of the native request in the words of the protocol's."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from infer_requests import infer, pixels
from rpc_serving import catalog

from whylight.engine.plan import canonical, plan_key
from whylight.errors import InvalidInput, NotFound, Unsupported, WhylightError
from whylight.limits import Limits
from whylight.open_inference import messages as oip
from whylight.open_inference.names import find
from whylight.open_inference.parameters import PARAMETERS
from whylight.open_inference.requests import Question, read_request
from whylight.rpc.validate import check_request
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1

LIMITS = Limits()


def offered():
    ready = catalog()
    ready.methods.add(name="deepdream", kind=catalog_pb2.METHOD_KIND_SYNTHESIS)
    ready.methods.add(name="b.cam", kind=catalog_pb2.METHOD_KIND_ATTRIBUTION, version="3")
    ready.models.add(name="one.v2", input_channels=3)
    ready.models.add(name="asked").companions["question"].dtype = v1.DATA_TYPE_INT64
    return ready


def read(request: oip.ModelInferRequest, limits: Limits = LIMITS) -> Question:
    return read_request(request, offered(), limits)


def refused(request: oip.ModelInferRequest, limits: Limits = LIMITS) -> WhylightError:
    with pytest.raises(WhylightError) as caught:
        read(request, limits)
    return caught.value


@pytest.mark.parametrize(
    ("name", "model", "method", "version"),
    [
        ("one", "one", None, "1"),
        ("one.grad-cam", "one", "grad-cam", ""),
        ("one.v2", "one.v2", None, "1"),
        ("one.v2.grad-cam", "one.v2", "grad-cam", ""),
        ("one.b.cam", "one", "b.cam", "3"),
        ("one.v2.b.cam", "one.v2", "b.cam", "3"),
    ],
)
def test_a_name_is_a_model_and_a_method(name: str, model: str, method: str | None, version: str):
    asked = find(offered(), name, version)
    assert (asked.model.name, asked.method and asked.method.name, asked.name) == (model, method, name)
    assert asked.version == version


@pytest.mark.parametrize(
    ("name", "reason", "says"),
    [
        ("", "MODEL_NOT_FOUND", "no model ''"),
        (".", "MODEL_NOT_FOUND", "no model '.'"),
        ("three", "MODEL_NOT_FOUND", "no model 'three'"),
        ("two2.grad-cam", "MODEL_NOT_FOUND", "did you mean 'two'"),
        ("one.grad-can", "METHOD_NOT_FOUND", "did you mean 'grad-cam'"),
        ("one.", "METHOD_NOT_FOUND", "no method ''"),
        ("x" * 100_000, "MODEL_NOT_FOUND", "no model 'xxx"),
        ("." * 2**22, "MODEL_NOT_FOUND", "no model '..."),  # hours, where each dot is tried
    ],
)
def test_a_name_of_nothing(name: str, reason: str, says: str):
    with pytest.raises(NotFound) as caught:
        find(offered(), name, "")
    assert caught.value.reason == reason
    assert says in caught.value.message
    assert len(caught.value.message) < 1000


def test_a_synthesis_is_no_inference():
    with pytest.raises(Unsupported, match="Synthesize"):
        find(offered(), "one.deepdream", "")


def test_another_version_is_not_there():
    request = infer("one.b.cam")
    request.model_version = "2"
    error = refused(request)
    assert (error.reason, error.violations[0].field) == ("MODEL_NOT_FOUND", "model_version")
    assert "'3'" in error.message


def test_a_plain_request_shares_its_plan_with_a_plain_native_call():
    question = read(infer(parameters={"option.layer": "conv"}))
    call = v1.MethodCall(name="grad-cam")
    call.options.update({"layer": "conv"})
    native = v1.ExplainRequest(model="one", methods=[call], inputs=[v1.Input(image=b"picture")])
    keys = [plan_key(canonical(check_request(request, LIMITS, "two").spec)) for request in (question.request, native)]
    assert keys[0] == keys[1]


def test_a_method_may_be_named_by_a_parameter():
    assert read(infer("one", parameters={"method": "saliency"})).request.methods[0].name == "saliency"
    assert refused(infer("one")).violations[0].field == "model_name"
    assert refused(infer("one", parameters={"method": "x"})).violations[0].field == "parameters[method]"
    other = refused(infer("one.grad-cam", parameters={"method": "cam"}))
    assert other.violations[0].field == "parameters[method]"


def test_a_batch_becomes_inputs():
    pictures = pixels(3)
    inputs = read(infer(IMAGE=pictures)).request.inputs
    assert [list(one.tensor.shape) for one in inputs] == [[48, 64, 3]] * 3
    assert [one.tensor.data for one in inputs] == [picture.tobytes() for picture in pictures]
    assert {one.tensor.dtype for one in inputs} == {v1.DATA_TYPE_UINT8}
    (alone,) = read(infer(IMAGE=pictures[0])).request.inputs
    assert alone == inputs[0]


def test_files_become_inputs():
    assert [one.image for one in read(infer(IMAGE_FILE=[b"one", b"two"])).request.inputs] == [b"one", b"two"]
    request = infer(IMAGE_FILE=[b"one", b"two"])
    request.inputs[0].shape[:] = [2, 1]
    assert [one.image for one in read(request).request.inputs] == [b"one", b"two"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_models_input_keeps_its_bits(dtype: str):
    numbers = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(dtype)
    inputs = read(infer(MODEL_INPUT=numbers)).request.inputs
    assert [one.tensor.data for one in inputs] == [one.tobytes() for one in numbers]
    assert {v1.DataType.Name(one.tensor.dtype) for one in inputs} == {f"DATA_TYPE_{dtype.upper()}"}


def test_bfloat16_is_widened_without_loss():
    wide = np.array([[[1.5, -2.0, 0.0, 3.0e38]]], np.float32)
    narrow = (wide.view(np.uint32) >> 16).astype("<u2")
    exact = (narrow.astype(np.uint32) << 16).view(np.float32)
    request = oip.ModelInferRequest(model_name="one.grad-cam", raw_input_contents=[narrow.tobytes()])
    request.inputs.add(name="MODEL_INPUT", datatype="BF16", shape=[1, 1, 4])
    (item,) = read(request).request.inputs
    assert item.tensor.dtype == v1.DATA_TYPE_FLOAT32
    assert np.array_equal(np.frombuffer(item.tensor.data, "<f4"), exact.ravel())
    assert exact[0, 0, 0] == 1.5


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, v1.Target(class_index=7)), ("cat", v1.Target(class_label="cat")), (0, v1.Target(class_index=0))],
)
def test_one_target(value: int | str, expected: v1.Target):
    assert list(read(infer(parameters={"target": value})).request.targets) == [expected]


def test_targets_of_any_kind_as_json():
    targets = [3, "dog", {"rank": 1}, {"neuron": {"layer": "conv", "channel": 2}}]
    read_back = read(infer(parameters={"targets": json.dumps(targets)})).request.targets
    neuron = v1.Target(neuron=v1.Neuron(layer="conv", channel=2))
    assert list(read_back) == [v1.Target(class_index=3), v1.Target(class_label="dog"), v1.Target(rank=1), neuron]


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_each_picture_has_its_own_targets(dtype: str):
    question = read(infer(IMAGE=pixels(2), TARGET=np.array([[0, 1], [2, 3]], dtype)))
    indices = [[target.class_index for target in one.targets] for one in question.request.inputs]
    assert indices == [[0, 1], [2, 3]]
    one_each = read(infer(IMAGE=pixels(2), TARGET=np.array([4, 5], dtype))).request.inputs
    assert [one.targets[0].class_index for one in one_each] == [4, 5]
    labels = read(infer(IMAGE=pixels(2), TARGET=["é".encode(), b"dog"])).request.inputs
    assert [one.targets[0].class_label for one in labels] == ["é", "dog"]


def test_options_come_one_by_one_and_as_json():
    single = {"option.layer": "conv", "option.smooth": True, "option.steps": 5, "option.sigma": 0.5}
    (call,) = read(infer(parameters={**single, "options": '{"layers": ["a", "b"]}', "seed": 7})).request.methods
    assert dict(call.options) | {"layers": list(call.options["layers"])} == {
        "layer": "conv",
        "smooth": True,
        "steps": 5,
        "sigma": 0.5,
        "layers": ["a", "b"],
    }
    assert call.seed == 7
    unsigned = infer()
    unsigned.parameters["seed"].uint64_param = 2**64 - 1
    assert read(unsigned).request.methods[0].seed == 2**64 - 1
    assert not read(infer()).request.methods[0].HasField("seed")


def test_times_and_priorities():
    parameters = read(infer(parameters={"timeout": 1_500_000, "priority": 1})).parameters
    assert (parameters.timeout, parameters.priority) == (1.5, 1)
    assert read(infer(parameters={"timeout": 0})).parameters.timeout is None
    native = [read(infer(parameters={"priority": level})).request.priority for level in (0, 1, 2, 9)]
    assert native == [v1.PRIORITY_UNSPECIFIED] * 2 + [v1.PRIORITY_BULK] * 2


@pytest.mark.parametrize(
    ("parameters", "reason", "field"),
    [
        ({"colour": 1}, "OPTION_INVALID", "parameters[colour]"),
        ({"sequence_id": 1}, "OPTION_INVALID", "parameters[sequence_id]"),
        ({"seed": -1}, "OPTION_INVALID", "parameters[seed]"),
        ({"seed": "7"}, "OPTION_INVALID", "parameters[seed]"),
        ({"seed": True}, "OPTION_INVALID", "parameters[seed]"),
        ({"seed": 7.0}, "OPTION_INVALID", "parameters[seed]"),
        ({"timeout": -5}, "OPTION_INVALID", "parameters[timeout]"),
        ({"top_predictions": -1}, "OPTION_INVALID", "parameters[top_predictions]"),
        ({"target": -1}, "TARGET_INVALID", "parameters[target]"),
        ({"target": 2**31}, "TARGET_INVALID", "parameters[target]"),
        ({"target": True}, "TARGET_INVALID", "parameters[target]"),
        ({"target": 1.0}, "TARGET_INVALID", "parameters[target]"),
        ({"target": 1, "targets": "[1]"}, "TARGET_INVALID", "parameters[targets]"),
        ({"targets": "1"}, "OPTION_INVALID", "parameters[targets]"),
        ({"targets": "[1"}, "OPTION_INVALID", "parameters[targets]"),
        ({"targets": '[{"nobody": 1}]'}, "TARGET_INVALID", "parameters[targets][0]"),
        ({"targets": "[1, null]"}, "TARGET_INVALID", "parameters[targets][1]"),
        ({"targets": '["\\ud800"]'}, "OPTION_INVALID", "parameters[targets]"),
        ({"options": '{"\\ud800": 1}'}, "OPTION_INVALID", "parameters[options]"),
        ({"options": '{"a": "\\ud800"}'}, "OPTION_INVALID", "parameters[options]"),
        ({"options": "[]"}, "OPTION_INVALID", "parameters[options]"),
        ({"options": '{"a": NaN}'}, "OPTION_INVALID", "parameters[options].a"),
        ({"options": "[" * 30_000}, "OPTION_INVALID", "parameters[options]"),
        ({"options": '{"a": 1}', "option.a": 1}, "OPTION_INVALID", "parameters[options]"),
        ({"options": " " * 2**17}, "OPTIONS_TOO_LARGE", "parameters[options]"),
        ({"option.a": float("nan")}, "OPTION_INVALID", "parameters[options].a"),
        ({f"option.o{i}": i for i in range(PARAMETERS + 1)}, "OPTION_INVALID", "parameters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_parameter_that_is_wrong_is_named(parameters: dict, reason: str, field: str):
    error = refused(infer(parameters=parameters))
    assert isinstance(error, InvalidInput)
    assert (error.reason, error.violations[0].field) == (reason, field)
    assert len(error.message) < 1000


def test_a_parameter_without_a_value_is_named():
    request = infer()
    request.parameters["seed"].SetInParent()
    assert refused(request).violations[0].field == "parameters[seed]"


ZERO = np.zeros((1, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("tensors", "reason", "field"),
    [
        ({"TARGET": np.zeros(1, np.int64)}, "TENSOR_INVALID", "inputs"),
        ({"IMAGE": pixels(), "MODEL_INPUT": ZERO}, "TENSOR_INVALID", "inputs"),
        ({"IMAGE": ZERO}, "TENSOR_INVALID", "inputs[0].datatype"),
        ({"IMAGE_FILE": pixels()}, "TENSOR_INVALID", "inputs[0].datatype"),
        ({"MODEL_INPUT": pixels()}, "TENSOR_INVALID", "inputs[0].datatype"),
        ({"IMAGE": np.zeros((1, 3, 8, 8), np.uint8)}, "TENSOR_INVALID", "inputs[0].shape"),
        ({"IMAGE": np.zeros((8, 3), np.uint8)}, "TENSOR_INVALID", "inputs[0].shape"),
        ({"IMAGE": np.zeros((0, 8, 8, 3), np.uint8)}, "TENSOR_INVALID", "inputs[0].shape"),
        ({"IMAGE_FILE": []}, "TENSOR_INVALID", "inputs[0].shape"),
        ({"MODEL_INPUT": np.zeros((3, 8), np.float32)}, "TENSOR_INVALID", "inputs[0].shape"),
        ({"IMAGE_FILE": [b"x"] * 5}, "TOO_MANY_INPUTS", "inputs[0].shape"),
        ({"IMAGE": pixels(5)}, "TOO_MANY_INPUTS", "inputs[0].shape"),
        ({"IMAGE": pixels(), "TARGET": np.zeros(1, np.float32)}, "TENSOR_INVALID", "inputs[1].datatype"),
        ({"IMAGE": pixels(), "TARGET": np.zeros(2, np.int64)}, "TENSOR_INVALID", "inputs[1].shape"),
        ({"IMAGE": pixels(), "TARGET": np.zeros((1, 0), np.int64)}, "TENSOR_INVALID", "inputs[1].shape"),
        ({"IMAGE": pixels(), "TARGET": np.zeros((1, 3), np.int64)}, "TOO_MANY_TARGETS", "inputs[1].shape"),
        ({"IMAGE": pixels(), "TARGET": np.full(1, -1, np.int64)}, "TARGET_INVALID", "inputs[1]"),
        ({"IMAGE": pixels(), "TARGET": np.full(1, 2**31, np.int64)}, "TARGET_INVALID", "inputs[1]"),
        ({"IMAGE": pixels(), "TARGET": [b"\xff"]}, "TARGET_INVALID", "inputs[1]"),
        ({"IMAGE": pixels(), "words": np.zeros((1, 4), np.int64)}, "TENSOR_INVALID", "inputs[1].name"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(tensors: dict, reason: str, field: str):
    error = refused(infer(**tensors), dataclasses.replace(LIMITS, inputs=4, targets=2))
    assert (error.reason, error.violations[0].field) == (reason, field)


def test_targets_come_by_tensor_or_by_parameter():
    error = refused(infer(parameters={"target": 1}, IMAGE=pixels(), TARGET=np.zeros(1, np.int64)))
    assert error.reason == "TARGET_INVALID"


def test_companions_are_parted_as_the_pictures_are():
    words = np.arange(8, dtype=np.int64).reshape(2, 4)
    inputs = read(infer("asked.grad-cam", IMAGE=pixels(2), question=words)).request.inputs
    assert [list(one.companions["question"].shape) for one in inputs] == [[4], [4]]
    assert [one.companions["question"].data for one in inputs] == [row.tobytes() for row in words]
    wrong = refused(infer("asked.grad-cam", IMAGE=pixels(2), question=words[:1]))
    assert wrong.violations[0].field == "inputs[1].shape"
    text = refused(infer("asked.grad-cam", IMAGE=pixels(), question=[b"words"]))
    assert text.violations[0].field == "inputs[1].datatype"


def test_wanted_outputs_in_native_words():
    outputs = {
        "BOXES": {"limit": 3, "threshold": 0.2, "canvas": "input"},
        "MAP": {"datatype": "FP16", "canvas": "original", "normalised": True, "binary_data": True},
        "TARGET_SCORE": {},
        "OVERLAY": {"format": "jpeg", "quality": 50, "opacity": "0.25", "colour_map": "jet"},
        "MASK": {},
        "HEATMAP": {},
    }
    question = read(infer(outputs=outputs))
    boxes, map_, overlay, mask, heatmap = question.request.outputs
    assert [one.name for one in question.request.outputs] == ["boxes", "map", "picture", "mask", "heatmap"]
    assert (boxes.boxes.limit, boxes.boxes.canvas) == (3, v1.CANVAS_INPUT)
    assert boxes.boxes.threshold == pytest.approx(0.2)
    assert map_.map == v1.MapOutput(canvas=v1.CANVAS_ORIGINAL, dtype=v1.DATA_TYPE_FLOAT16, normalised=True)
    assert overlay.picture == v1.PictureOutput(
        style=v1.PICTURE_STYLE_OVERLAY,
        format=v1.PICTURE_FORMAT_JPEG,
        quality=50,
        opacity=0.25,
        colour_map="jet",
    )
    assert not mask.mask.HasField("threshold")
    assert heatmap.picture.style == v1.PICTURE_STYLE_MAP
    assert question.wanted.names == tuple(outputs)
    assert (question.wanted.box_limit, question.wanted.map_type) == (3, "FP16")


@pytest.mark.parametrize(
    ("outputs", "reason", "field"),
    [
        ({"LOGITS": {}}, "OUTPUT_INVALID", "outputs[0].name"),
        ({"MAP": {"classification": 3}}, "OPTION_INVALID", "outputs[0].parameters[classification]"),
        ({"MAP": {"canvas": "moon"}}, "OUTPUT_INVALID", "outputs[0].parameters[canvas]"),
        ({"MAP": {"canvas": 3}}, "OPTION_INVALID", "outputs[0].parameters[canvas]"),
        ({"MAP": {"datatype": "FP64"}}, "OUTPUT_INVALID", "outputs[0].parameters[datatype]"),
        ({"MAP": {"binary_data": False}}, "OUTPUT_INVALID", "outputs[0].parameters[binary_data]"),
        ({"BOXES": {"limit": 0}}, "OUTPUT_INVALID", "outputs[0].parameters[limit]"),
        ({"OVERLAY": {"opacity": "much"}}, "OUTPUT_INVALID", "outputs[0].parameters[opacity]"),
        ({"TARGET_SCORE": {"canvas": "input"}}, "OPTION_INVALID", "outputs[0].parameters[canvas]"),
    ],
)
def test_an_output_that_is_wrong_is_named(outputs: dict, reason: str, field: str):
    error = refused(infer(outputs=outputs))
    assert (error.reason, error.violations[0].field) == (reason, field)


def test_an_output_is_wanted_once_and_there_are_only_so_many():
    request = infer(outputs={"MAP": {}})
    request.outputs.add(name="MAP")
    assert refused(request).violations[0].field == "outputs[1].name"
    error = refused(request, dataclasses.replace(LIMITS, outputs=1))
    assert error.reason == "TOO_MANY_OUTPUTS"


@pytest.mark.parametrize(
    ("native", "own"),
    [
        ("model", "model_name"),
        ("methods[0].name", "model_name"),
        ("methods", "model_name"),
        ("methods[0].options.layer", "parameters[option.layer]"),
        ("methods[0].options.layers[2]", "parameters[option.layers][2]"),
        ("methods[0].options.smooth", "parameters[options].smooth"),
        ("methods[0].options", "parameters[options]"),
        ("methods[0].seed", "parameters[seed]"),
        ("targets[0].class_index", "parameters[target].class_index"),
        ("top_predictions", "parameters[top_predictions]"),
        ("inputs", "inputs"),
        ("inputs[2].tensor.shape", "inputs[IMAGE][2].shape"),
        ("inputs[2]", "inputs[IMAGE][2]"),
        ("inputs[0].targets[1].class_label", "inputs[TARGET][0][1].class_label"),
        ("inputs[1].companions[question].shape", "inputs[question][1].shape"),
        ("outputs[0].boxes.threshold", "outputs[BOXES].threshold"),
        ("outputs[1].name", "outputs[MAP].name"),
        ("", ""),
    ],
)
def test_errors_point_into_the_request_that_was_sent(native: str, own: str):
    parameters = {"target": 1, "option.layer": "conv", "option.layers": "x"}
    tensors = {"IMAGE": pixels(3), "question": np.zeros((3, 4), np.int64)}
    question = read(infer("asked.grad-cam", outputs={"BOXES": {}, "MAP": {}}, parameters=parameters, **tensors))
    error = InvalidInput("wrong", field="x")
    error.violations = (dataclasses.replace(error.violations[0], field=native),)
    assert question.localised(error).violations[0].field == own
    assert error.violations[0].field == native
