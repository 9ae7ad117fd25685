"""Whatever travels arrives as it left."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import wire_strategies as strategies
from hypothesis import given

from whylight import wire
from whylight.artifact import Map
from whylight.errors import WhylightError
from whylight.target import Similarity
from whylight.v1 import explanation_pb2 as pb


def assert_same_explained(got, sent):
    assert got.predictions == sent.predictions
    assert (got.original_size, got.input_size) == (sent.original_size, sent.input_size)
    assert len(got.explanations) == len(sent.explanations)
    for one, other in zip(got.explanations, sent.explanations, strict=True):
        for field in fields(one):
            if field.name not in ("artifacts", "execution"):
                assert getattr(one, field.name) == getattr(other, field.name), field.name
        for field in fields(one.execution):
            value = getattr(other.execution, field.name)
            expected = pytest.approx(value, abs=1e-9) if isinstance(value, float) else value
            assert getattr(one.execution, field.name) == expected
        assert len(one.artifacts) == len(other.artifacts)
        for artifact, twin in zip(one.artifacts, other.artifacts, strict=True):
            if isinstance(twin, Map):
                assert artifact.name == twin.name
                assert_same_array(artifact.array, twin.array)
            else:
                assert artifact == twin


def assert_same_array(got, sent):
    assert got.shape == sent.shape
    assert got.dtype == sent.dtype
    assert got.tobytes() == sent.tobytes()


def assert_same_error(got, sent):
    assert type(got) is type(sent)
    assert (got.message, got.reason, got.violations, got.metadata) == (
        sent.message,
        sent.reason,
        sent.violations,
        sent.metadata,
    )
    assert got.retry_after == (None if sent.retry_after is None else pytest.approx(sent.retry_after, abs=1e-9))


def through_bytes(message):
    return type(message).FromString(message.SerializeToString())


@given(strategies.targets)
def test_target(target):
    assert wire.target_from_proto(through_bytes(wire.target_to_proto(target))) == target


@given(strategies.specifications)
def test_output(output):
    assert wire.output_from_proto(through_bytes(wire.output_to_proto(output))) == output


@given(strategies.options)
def test_options(options):
    got = wire.struct_to_dict(through_bytes(wire.dict_to_struct(options)))
    assert got == options


@given(strategies.tensors)
def test_tensor(array):
    assert_same_array(wire.tensor_to_array(through_bytes(wire.array_to_tensor(array))), array)


@given(strategies.explained)
def test_explained(explained):
    assert_same_explained(wire.explained_from_proto(through_bytes(wire.explained_to_proto(explained))), explained)


@given(strategies.failures())
def test_error(error):
    assert_same_error(wire.error_from_proto(through_bytes(wire.error_to_proto(error))), error)


@given(strategies.explained | strategies.failures())
def test_result(result):
    got = wire.result_from_proto(through_bytes(wire.result_to_proto(result)))
    if isinstance(result, WhylightError):
        assert_same_error(got, result)
    else:
        assert_same_explained(got, result)


@given(strategies.tensors)
def test_input_keeps_data_and_targets(array):
    targets = (wire.target_from_proto(pb.Target(class_index=3)), wire.target_from_proto(pb.Target(rank=1)))
    message = through_bytes(wire.input_to_proto(array, targets))
    assert_same_array(wire.input_from_proto(message), array)
    assert wire.targets_from_proto(message.targets) == targets
    assert wire.input_from_proto(wire.input_to_proto(b"a file")) == b"a file"


@given(strategies.companions)
def test_companions(companions):
    got = wire.companions_from_proto(through_bytes(wire.input_to_proto(b"a file", companions=companions)))
    assert got.keys() == companions.keys()
    for name, array in companions.items():
        assert_same_array(got[name], array)


def test_numbers_of_double_precision_travel_as_single():
    sent = Similarity(embedding=np.array([0.1, 2.0]), layer="conv")
    got = wire.target_from_proto(through_bytes(wire.target_to_proto(sent)))
    assert got == Similarity(embedding=np.array([0.1, 2.0], np.float32), layer="conv")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::-2],
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.broadcast_to(np.float16(1.5), (2, 2)),
    ],
)
def test_any_memory_layout_travels_in_row_major_order(array):
    got = wire.tensor_to_array(wire.array_to_tensor(array))
    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype.newbyteorder("<")


def test_reading_a_tensor_copies_nothing():
    message = wire.array_to_tensor(np.zeros((4, 4), np.float32))
    array = wire.tensor_to_array(message)
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_options_keep_whole_numbers_whole():
    got = wire.struct_to_dict(wire.dict_to_struct({"steps": 50, "alpha": 0.5, "window": (3, np.int64(4)), "on": True}))
    assert got == {"steps": 50, "alpha": 0.5, "window": [3, 4], "on": True}
    assert [type(got["steps"]), type(got["window"][1]), type(got["on"])] == [int, int, bool]


def test_equal_options_are_equal_bytes_whatever_their_order():
    one = wire.dict_to_struct({"a": 1, "b": {"c": 2, "d": 3}})
    other = wire.dict_to_struct({"b": {"d": 3.0, "c": 2.0}, "a": 1.0})
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
