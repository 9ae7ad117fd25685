"""What a stranger sends wrongly is refused with a typed error that names the field."""

from __future__ import annotations

import math

import numpy as np
import pytest
from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from whylight import wire
from whylight.errors import InternalError, InvalidInput, MethodFailed, WhylightError
from whylight.target import ClassIndex, Neuron, Rank, Region
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.options import list_to_values


def refused(call, *arguments, **keywords):
    with pytest.raises(InvalidInput) as caught:
        call(*arguments, **keywords)
    (violation,) = caught.value.violations
    return caught.value.reason, violation.field


FLOAT32 = pb.DATA_TYPE_FLOAT32
RANK = pb.Target(rank=0)
REGION = pb.Target(region=pb.Region())


def mask(*shape, value=1):
    return pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=shape, data=bytes([value]) * math.prod(shape))


def floats(*values):
    return wire.array_to_tensor(np.array(values, np.float32))


def nested(depth):
    """A contrast of contrasts of contrasts."""
    return pb.Target(contrast=pb.Contrast(positive=nested(depth - 1), negative=RANK)) if depth else RANK


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (pb.Tensor(shape=[1], data=b"1234"), "tensor.dtype"),
        (pb.Tensor(dtype=77, shape=[1], data=b"1234"), "tensor.dtype"),
        (pb.Tensor(dtype=FLOAT32, shape=[2, 2], data=b"123"), "tensor.data"),
        (pb.Tensor(dtype=FLOAT32, shape=[2, 2], data=b"1" * 20), "tensor.data"),
        (pb.Tensor(dtype=FLOAT32, shape=[0, 2], data=b"1234"), "tensor.data"),
        (pb.Tensor(dtype=FLOAT32, shape=[], data=b""), "tensor.data"),
        (pb.Tensor(dtype=FLOAT32, shape=[-1, -1], data=b"1234"), "tensor.shape"),
        (pb.Tensor(dtype=FLOAT32, shape=[2**62, 4], data=b""), "tensor.shape"),
        (pb.Tensor(dtype=FLOAT32, shape=[2**62, 2**62, 0], data=b""), "tensor.shape"),
        (pb.Tensor(dtype=FLOAT32, shape=[2**32, 2**32], data=b""), "tensor.shape"),
        (pb.Tensor(dtype=FLOAT32, shape=[1] * 9, data=b"1234"), "tensor.shape"),
    ],
)
def test_tensor(tensor, field):
    assert refused(wire.tensor_to_array, tensor) == ("TENSOR_INVALID", field)
    assert refused(wire.input_from_proto, pb.Input(tensor=tensor), "inputs[3]") == (
        "TENSOR_INVALID",
        f"inputs[3].{field}",
    )


def test_tensor_beyond_the_limit_is_refused_before_its_bytes_are_looked_at():
    tensor = pb.Tensor(dtype=FLOAT32, shape=[5], data=b"")
    assert refused(wire.tensor_to_array, tensor, "t", max_elements=4) == ("TENSOR_TOO_LARGE", "t.shape")
    assert refused(wire.tensor_to_array, tensor, "t", max_elements=5) == ("TENSOR_INVALID", "t.data")


@given(
    st.integers(-1, 5),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 4), max_size=10),
    st.binary(max_size=64),
)
def test_any_tensor_is_read_or_refused(dtype, shape, data):
    message = pb.Tensor(dtype=dtype, shape=shape, data=data)
    try:
        array = wire.tensor_to_array(message)
    except InvalidInput:
        return
    assert array.shape == tuple(shape)
    assert array.tobytes() == data


@pytest.mark.parametrize("array", [np.zeros(2), np.zeros(2, np.int64), np.array(["a"]), np.zeros(2, complex)])
def test_array_of_another_type(array):
    assert refused(wire.array_to_tensor, array) == ("TENSOR_INVALID", "tensor.dtype")


def test_input():
    assert refused(wire.input_from_proto, pb.Input(), "inputs[0]") == ("REQUEST_INVALID", "inputs[0]")
    assert refused(wire.input_from_proto, pb.Input(image=b"")) == ("IMAGE_UNREADABLE", "input.image")


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (pb.Target(), "targets[1]"),
        (pb.Target(class_index=-1), "targets[1].class_index"),
        (pb.Target(class_label=""), "targets[1].class_label"),
        (pb.Target(class_label="x" * 257), "targets[1].class_label"),
        (pb.Target(output=pb.OutputIndex(indices=[0] * 9)), "targets[1].output.indices"),
        (pb.Target(neuron=pb.Neuron(layer="x" * 257)), "targets[1].neuron.layer"),
        (pb.Target(neuron=pb.Neuron(layer="a", position=[0] * 9)), "targets[1].neuron.position"),
        (pb.Target(rank=-2), "targets[1].rank"),
        (pb.Target(latent=-1), "targets[1].latent"),
        (pb.Target(output=pb.OutputIndex(indices=[0, -1])), "targets[1].output.indices[1]"),
        (pb.Target(neuron=pb.Neuron(channel=1)), "targets[1].neuron.layer"),
        (pb.Target(neuron=pb.Neuron(layer="a", channel=-1)), "targets[1].neuron.channel"),
        (pb.Target(neuron=pb.Neuron(layer="a", position=[-1])), "targets[1].neuron.position[0]"),
        (pb.Target(region=pb.Region(class_index=-1)), "targets[1].region.class_index"),
        (pb.Target(region=pb.Region(left=0.5, right=0.5, bottom=1)), "targets[1].region"),
        (pb.Target(region=pb.Region(right=math.nan, bottom=1)), "targets[1].region"),
        (pb.Target(region=pb.Region(right=2, bottom=1)), "targets[1].region"),
        (pb.Target(region=pb.Region(mask=mask(2, 2, value=0))), "targets[1].region.mask"),
        (pb.Target(region=pb.Region(mask=mask(4))), "targets[1].region.mask.shape"),
        (pb.Target(region=pb.Region(right=0.5, bottom=1, mask=mask(2, 2))), "targets[1].region.mask"),
        (pb.Target(contrast=pb.Contrast(positive=RANK)), "targets[1].contrast.negative"),
        (pb.Target(contrast=pb.Contrast(positive=REGION, negative=RANK)), "targets[1].contrast.positive"),
        (pb.Target(contrast=pb.Contrast(positive=nested(20), negative=RANK)), "targets[1].contrast.positive"),
        (
            pb.Target(contrast=pb.Contrast(positive=pb.Target(rank=-1), negative=RANK)),
            "targets[1].contrast.positive.rank",
        ),
        (pb.Target(detection=pb.Detection(right=1)), "targets[1].detection"),
        (pb.Target(detection=pb.Detection(class_index=-1, right=1, bottom=1)), "targets[1].detection.class_index"),
        (pb.Target(similarity=pb.Similarity()), "targets[1].similarity"),
        (pb.Target(similarity=pb.Similarity(image=b"x", layer="x" * 257)), "targets[1].similarity.layer"),
        (pb.Target(similarity=pb.Similarity(embedding=floats(math.nan))), "targets[1].similarity.embedding"),
        (pb.Target(similarity=pb.Similarity(embedding=floats(0, 0))), "targets[1].similarity.embedding"),
    ],
)
def test_target(target, field):
    assert refused(wire.targets_from_proto, [pb.Target(rank=0), target]) == ("TARGET_INVALID", field)


@pytest.mark.parametrize(
    ("target", "reason", "field"),
    [
        (pb.Target(region=pb.Region(mask=floats(1))), "TENSOR_INVALID", "t.region.mask.dtype"),
        (pb.Target(region=pb.Region(mask=mask(1025, 1024))), "TENSOR_TOO_LARGE", "t.region.mask.shape"),
        (pb.Target(similarity=pb.Similarity(tensor=pb.Tensor())), "TENSOR_INVALID", "t.similarity.tensor.dtype"),
        (pb.Target(similarity=pb.Similarity(embedding=mask(2))), "TENSOR_INVALID", "t.similarity.embedding.dtype"),
        (pb.Target(similarity=pb.Similarity(image=b"")), "IMAGE_UNREADABLE", "t.similarity.image"),
    ],
)
def test_what_a_target_holds(target, reason, field):
    assert refused(wire.target_from_proto, target, "t") == (reason, field)


@pytest.mark.parametrize(
    ("companions", "reason", "field"),
    [
        (
            {"question": pb.Tensor(dtype=pb.DATA_TYPE_FLOAT16, shape=[1], data=b"12")},
            "TENSOR_INVALID",
            "[question].dtype",
        ),
        (
            {"question": pb.Tensor(dtype=pb.DATA_TYPE_INT64, shape=[1], data=b"1234")},
            "TENSOR_INVALID",
            "[question].data",
        ),
        (
            {"question": pb.Tensor(dtype=pb.DATA_TYPE_INT64, shape=[2**20 + 1])},
            "TENSOR_TOO_LARGE",
            "[question].shape",
        ),
        ({"": floats(1)}, "REQUEST_INVALID", ""),
        ({"x" * 257: floats(1)}, "REQUEST_INVALID", ""),
        ({str(n): floats(1) for n in range(9)}, "TOO_MANY_COMPANIONS", ""),
    ],
)
def test_companions(companions, reason, field):
    message = pb.Input(image=b"file", companions=companions)
    assert refused(wire.companions_from_proto, message, "inputs[2]") == (reason, f"inputs[2].companions{field}")


def test_whole_numbers_are_companions_only():
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_INT64, shape=[1], data=b"12345678")
    assert refused(wire.input_from_proto, pb.Input(tensor=tensor)) == ("TENSOR_INVALID", "input.tensor.dtype")


def test_indices_that_do_not_fit_the_wire():
    assert refused(wire.target_to_proto, ClassIndex(2**31)) == ("TARGET_INVALID", "class_index")
    assert refused(wire.target_to_proto, Rank(-(2**31) - 1)) == ("TARGET_INVALID", "rank")
    assert refused(wire.target_to_proto, Neuron("a", 2**40)) == ("TARGET_INVALID", "neuron.channel")


def test_region_of_all_zeros_is_the_whole_picture():
    assert wire.target_from_proto(pb.Target(region=pb.Region(class_index=4))) == Region(4, 0, 0, 1, 1)


@pytest.mark.parametrize(
    ("output", "field"),
    [
        (pb.OutputSpec(name="a"), "outputs[1]"),
        (pb.OutputSpec(name="x" * 257, map=pb.MapOutput()), "outputs[1]"),
        (pb.OutputSpec(picture=pb.PictureOutput(colour_map="x" * 257)), "outputs[1]"),
        (pb.OutputSpec(map=pb.MapOutput(canvas=9)), "outputs[1].map.canvas"),
        (pb.OutputSpec(map=pb.MapOutput(dtype=9)), "outputs[1].map.dtype"),
        (pb.OutputSpec(picture=pb.PictureOutput(format=9)), "outputs[1].picture.format"),
        (pb.OutputSpec(picture=pb.PictureOutput(style=9)), "outputs[1].picture.style"),
        (pb.OutputSpec(picture=pb.PictureOutput(canvas=pb.CANVAS_NATIVE)), "outputs[1].picture.canvas"),
        (pb.OutputSpec(picture=pb.PictureOutput(opacity=1.5)), "outputs[1].picture.opacity"),
        (pb.OutputSpec(picture=pb.PictureOutput(opacity=math.nan)), "outputs[1].picture.opacity"),
        (pb.OutputSpec(picture=pb.PictureOutput(quality=101)), "outputs[1].picture.quality"),
        (pb.OutputSpec(picture=pb.PictureOutput(clip_percentile=0)), "outputs[1].picture.clip_percentile"),
        (pb.OutputSpec(picture=pb.PictureOutput(clip_percentile=100.5)), "outputs[1].picture.clip_percentile"),
        (pb.OutputSpec(picture=pb.PictureOutput(clip_percentile=math.nan)), "outputs[1].picture.clip_percentile"),
        (pb.OutputSpec(boxes=pb.BoxesOutput(threshold=0)), "outputs[1].boxes.threshold"),
        (pb.OutputSpec(mask=pb.MaskOutput(threshold=1)), "outputs[1].mask.threshold"),
        (pb.OutputSpec(mask=pb.MaskOutput(canvas=pb.CANVAS_NATIVE)), "outputs[1].mask.canvas"),
        (pb.OutputSpec(boxes=pb.BoxesOutput(limit=101)), "outputs[1].boxes.limit"),
        (pb.OutputSpec(boxes=pb.BoxesOutput(canvas=pb.CANVAS_NATIVE)), "outputs[1].boxes.canvas"),
        (pb.OutputSpec(name="first", map=pb.MapOutput()), "outputs[1].name"),
    ],
)
def test_output(output, field):
    first = pb.OutputSpec(name="first", map=pb.MapOutput())
    assert refused(wire.outputs_from_proto, [first, output]) == ("OUTPUT_INVALID", field)


def test_unset_fields_of_outputs_take_the_defaults_that_the_proto_promises():
    kinds = [
        pb.OutputSpec(map=pb.MapOutput()),
        pb.OutputSpec(picture=pb.PictureOutput()),
        pb.OutputSpec(boxes=pb.BoxesOutput()),
        pb.OutputSpec(mask=pb.MaskOutput()),
    ]
    names = {"MapOutput": "map", "PictureOutput": "picture", "BoxesOutput": "boxes", "MaskOutput": "mask"}
    for output in wire.outputs_from_proto(kinds):
        assert output == type(output)()
        assert output.name == names[type(output).__name__]
    assert [output.name for output in wire.outputs_from_proto([])] == ["map"]


def test_opacity_zero_is_not_an_unset_opacity():
    assert wire.output_from_proto(pb.OutputSpec(picture=pb.PictureOutput(opacity=0))).opacity == 0


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"a": math.nan}, "options.a"),
        ({"a": [1, math.inf]}, "options.a[1]"),
        ({"a": {"b": 2**53 + 1}}, "options.a.b"),
        ({"a": object()}, "options.a"),
        ({"a": b"bytes"}, "options.a"),
        ({"a": {1: 2}}, "options.a"),
    ],
)
def test_options_that_a_struct_cannot_hold(values, field):
    assert refused(wire.dict_to_struct, values) == ("OPTION_INVALID", field)


def test_options_that_hold_themselves():
    values = {}
    values["a"] = [values]
    with pytest.raises(InvalidInput, match="levels"):
        wire.dict_to_struct(values)


def test_deepest_options_survive_the_parser():
    values = {}
    for _ in range(30):
        values = {"a": values}
    message = pb.MethodCall(options=wire.dict_to_struct(values))
    request = pb.StreamExplainRequest(request=pb.ExplainRequest(methods=[message]))
    got = pb.StreamExplainRequest.FromString(request.SerializeToString())
    assert wire.struct_to_dict(got.request.methods[0].options) == values


def test_struct_values_that_mean_nothing():
    unset = struct_pb2.Struct(fields={"a": struct_pb2.Value()})
    assert refused(wire.struct_to_dict, unset) == ("OPTION_INVALID", "options.a")
    infinite = struct_pb2.ListValue(values=[struct_pb2.Value(number_value=math.inf)])
    assert refused(list_to_values, infinite, "rows[0]") == ("OPTION_INVALID", "rows[0][0]")


@pytest.mark.parametrize(
    "artifact",
    [
        pb.Artifact(name="a"),
        pb.Artifact(
            name="a",
            table=pb.Table(
                columns=["x"], rows=[struct_pb2.ListValue(values=[struct_pb2.Value(number_value=math.inf)])]
            ),
        ),
        pb.Artifact(name="a", boxes=pb.Boxes()),
        pb.Artifact(name="a", tensor=pb.Tensor(dtype=FLOAT32, shape=[2], data=b"1")),
    ],
)
def test_answer_that_cannot_be_read_is_a_fault_of_the_answer(artifact):
    explanation = pb.Explanation(target=pb.Target(rank=0), artifacts=[artifact])
    with pytest.raises(InternalError) as caught:
        wire.explained_from_proto(pb.Explained(explanations=[explanation]))
    assert caught.value.reason == "RESPONSE_INVALID"


def test_empty_results_and_targets_in_answers():
    with pytest.raises(InternalError):
        wire.result_from_proto(pb.InputResult())
    with pytest.raises(InternalError):
        wire.explanation_from_proto(pb.Explanation(target=pb.Target()))


def test_error_of_a_code_that_is_not_ours_keeps_its_words():
    error = wire.error_from_proto(pb.Error(code=12, reason="UNIMPLEMENTED", message="no"))
    assert type(error) is WhylightError
    assert (error.reason, error.message) == ("UNIMPLEMENTED", "no")


def test_failed_method_is_told_from_other_internal_errors():
    assert type(wire.error_from_proto(pb.Error(code=13, reason="METHOD_FAILED"))) is MethodFailed
    assert type(wire.error_from_proto(pb.Error(code=13, reason="INTERNAL"))) is InternalError


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.9999999999, 1.5, -0.25, -1.9999999999, 86400.000001])
def test_durations_are_normal(seconds):
    duration = wire.seconds_to_duration(seconds)
    assert abs(duration.nanos) < 10**9
    assert duration.seconds * duration.nanos >= 0
    assert wire.duration_to_seconds(duration) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e15])
def test_durations_that_cannot_be(seconds):
    with pytest.raises(ValueError, match="do not fit"):
        wire.seconds_to_duration(seconds)


def test_retry_delay_of_zero_is_not_no_delay():
    error = wire.error_from_proto(pb.Error(code=8, retry_delay=Duration()))
    assert error.retry_after == 0
