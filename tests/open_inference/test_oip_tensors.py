"""Tensors of requests: raw and typed give the same, and what does not fit its shape is refused before it is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from infer_requests import add_tensor, array, infer, pixels

from whylight.errors import InvalidInput
from whylight.open_inference import messages as oip
from whylight.open_inference.tensors import TENSORS, TYPED_ELEMENTS, read_tensors, write_tensor

LIMIT = 1 << 24


def read(request: oip.ModelInferRequest):
    return read_tensors(request, ("x", "IMAGE", "TARGET"), max_elements=LIMIT)


def refused(request: oip.ModelInferRequest) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read(request)
    return caught.value


def typed(datatype: str, shape: list[int], **contents: list) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest()
    request.inputs.add(name="x", datatype=datatype, shape=shape, contents=oip.InferTensorContents(**contents))
    return request


@pytest.mark.parametrize(
    ("datatype", "contents", "expected"),
    [
        ("UINT8", {"uint_contents": [0, 7, 255]}, np.array([0, 7, 255], np.uint8)),
        ("INT32", {"int_contents": [-1, 0, 2**31 - 1]}, np.array([-1, 0, 2**31 - 1], np.int32)),
        ("INT64", {"int64_contents": [-1, 0, 2**62]}, np.array([-1, 0, 2**62], np.int64)),
        ("FP32", {"fp32_contents": [0.5, -1.5, 1e30]}, np.array([0.5, -1.5, 1e30], np.float32)),
    ],
)
def test_typed_contents_are_the_raw_contents(datatype: str, contents: dict, expected: np.ndarray):
    raw = oip.ModelInferRequest()
    add_tensor(raw, "x", expected)
    one, other = read(typed(datatype, [3], **contents))["x"], read(raw)["x"]
    assert one.data == other.data == expected.tobytes()
    assert one.shape == other.shape == (3,)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_bytes_come_back_as_they_went(elements: list[bytes]):
    answer = oip.ModelInferResponse()
    write_tensor(answer, "x", "BYTES", [len(elements)], elements)
    assert list(array(answer, "x")) == elements
    request = oip.ModelInferRequest(raw_input_contents=answer.raw_output_contents)
    request.inputs.add(name="x", datatype="BYTES", shape=[len(elements)])
    assert read(request)["x"].data == tuple(elements)
    assert read(typed("BYTES", [len(elements)], bytes_contents=elements))["x"].data == tuple(elements)


@given(st.binary(max_size=64), st.integers(0, 5))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes, elements: int):
    request = oip.ModelInferRequest(raw_input_contents=[data])
    request.inputs.add(name="x", datatype="BYTES", shape=[elements])
    error = None
    try:
        tensor = read(request)["x"]
    except InvalidInput as caught:
        error = caught
    if error is None:
        assert sum(4 + len(element) for element in tensor.data) == len(data)
    else:
        assert (error.reason, error.violations[0].field) == ("TENSOR_INVALID", "raw_input_contents[0]")


def shaped(datatype: str, shape: list[int], data: bytes = b"") -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(raw_input_contents=[data])
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (shaped("FP64", [1], b"12345678"), "TENSOR_INVALID", "inputs[0].datatype"),
        (shaped("", [1]), "TENSOR_INVALID", "inputs[0].datatype"),
        (shaped("UINT8", [-1, 3]), "TENSOR_INVALID", "inputs[0].shape"),
        (shaped("UINT8", [1] * 9, b"1"), "TENSOR_INVALID", "inputs[0].shape"),
        (shaped("UINT8", [2**62, 2**62]), "TENSOR_INVALID", "inputs[0].shape"),
        (shaped("UINT8", [2**62, 0]), "TENSOR_INVALID", "inputs[0].shape"),
        (shaped("FP32", [2**25]), "TENSOR_TOO_LARGE", "inputs[0].shape"),
        (shaped("FP32", [3], b"1234"), "TENSOR_INVALID", "raw_input_contents[0]"),
        (shaped("FP32", [1], b"12345"), "TENSOR_INVALID", "raw_input_contents[0]"),
        (shaped("BYTES", [2], b"\x01\0\0\0a"), "TENSOR_INVALID", "raw_input_contents[0]"),
        (shaped("BYTES", [1], b"\x02\0\0\0a"), "TENSOR_INVALID", "raw_input_contents[0]"),
        (shaped("BYTES", [1], b"\x01\0\0\0ab"), "TENSOR_INVALID", "raw_input_contents[0]"),
        (shaped("BYTES", [2**24], b""), "TENSOR_INVALID", "raw_input_contents[0]"),
        (typed("UINT8", [1], uint_contents=[256]), "TENSOR_INVALID", "inputs[0].contents.uint_contents"),
        (typed("UINT8", [2], uint_contents=[1]), "TENSOR_INVALID", "inputs[0].contents.uint_contents"),
        (typed("UINT8", [1], int_contents=[1]), "TENSOR_INVALID", "inputs[0].contents"),
        (typed("FP16", [1], fp32_contents=[1]), "TENSOR_INVALID", "inputs[0].contents"),
        (typed("BF16", [0]), "TENSOR_INVALID", "inputs[0].contents"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(request_: oip.ModelInferRequest, reason: str, field: str):
    error = refused(request_)
    assert (error.reason, error.violations[0].field) == (reason, field)


def test_typed_contents_have_a_bound_of_their_own():
    too_many = typed("UINT8", [TYPED_ELEMENTS + 1], uint_contents=[0] * (TYPED_ELEMENTS + 1))
    assert "raw_input_contents" in refused(too_many).message
    assert refused(too_many).reason == "TENSOR_TOO_LARGE"


def test_raw_bytes_have_the_same_bound():
    request = oip.ModelInferRequest(raw_input_contents=[b"\0" * 4 * (TYPED_ELEMENTS + 1)])
    request.inputs.add(name="x", datatype="BYTES", shape=[TYPED_ELEMENTS + 1])
    error = refused(request)
    assert (error.reason, error.violations[0].field) == ("TENSOR_TOO_LARGE", "raw_input_contents[0]")


def test_contents_are_raw_or_typed_never_both():
    request = infer(IMAGE=pixels())
    request.inputs[0].contents.uint_contents.append(1)
    assert refused(request).violations[0].field == "inputs[0].contents"


def test_all_tensors_have_raw_contents_or_none():
    request = infer(IMAGE=pixels())
    request.inputs.add(name="TARGET", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    assert refused(request).violations[0].field == "raw_input_contents"


def test_names_of_tensors_are_unique_and_known():
    assert refused(infer(**{"": pixels()})).violations[0].field == "inputs[0].name"
    assert refused(infer(**{"y" * 100_000: pixels()})).message.endswith("there are x, IMAGE, TARGET")
    request = infer(IMAGE=pixels())
    add_tensor(request, "IMAGE", pixels())
    assert refused(request).violations[0].field == "inputs[1].name"


def test_there_are_only_so_many_tensors():
    many = {f"T{index}": np.zeros(1, np.uint8) for index in range(TENSORS + 1)}
    assert refused(infer(**many)).violations[0].field == "inputs"


def test_shared_memory_is_refused_by_its_name():
    request = infer(IMAGE=pixels())
    request.inputs[0].parameters["shared_memory_region"].string_param = "secret"
    error = refused(request)
    assert error.violations[0].field == "inputs[0].parameters[shared_memory_region]"
    assert "secret" not in error.message


@pytest.mark.parametrize(("told", "taken"), [(48 * 64 * 3, True), (5, False)])
def test_the_size_that_kserve_tells_must_be_true(told: int, taken: bool):
    request = infer(IMAGE=pixels())
    request.inputs[0].parameters["binary_data_size"].int64_param = told
    if taken:
        assert read(request)["IMAGE"].shape == (1, 48, 64, 3)
    else:
        assert refused(request).violations[0].field == "inputs[0].parameters[binary_data_size]"
