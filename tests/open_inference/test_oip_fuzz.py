"""Whatever is sent: a request of the protocol is taken, or refused with a typed error that fits into a status."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from infer_requests import infer, pixels
from rpc_serving import catalog

from whylight.errors import InternalError, WhylightError
from whylight.limits import Limits
from whylight.open_inference import messages as oip
from whylight.open_inference.outputs import NAMES
from whylight.open_inference.requests import read_request
from whylight.rpc.errors import STATUS_BYTES, to_status
from whylight.rpc.validate import check_request

LIMITS = dataclasses.replace(Limits(), inputs=8, targets=4, outputs=6, message_bytes=1 << 20)
CATALOG = catalog()

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=()))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["rank", "class_index", "class_label", "neuron", "layer", "region", "left", "contrast"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
texts = st.one_of(
    st.sampled_from(["", ".", "one.grad-cam", "two.cam", "one", "IMAGE", "[1, 2]", '{"a": 1}', '["\\ud800"]']),
    st.text(),
    values.map(json.dumps),
    st.lists(values, max_size=2).map(json.dumps),
)
parameters = st.dictionaries(
    st.one_of(
        st.sampled_from(["seed", "target", "targets", "options", "option.layer", "timeout", "priority", "method"]),
        st.sampled_from(["top_predictions", "canvas", "limit", "threshold", "opacity", "datatype", "format"]),
        st.text(max_size=8),
    ),
    st.one_of(
        st.builds(oip.InferParameter, bool_param=st.booleans()),
        st.builds(oip.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(oip.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
        st.builds(oip.InferParameter, double_param=st.floats()),
        st.builds(oip.InferParameter, string_param=texts),
        st.just(oip.InferParameter()),
    ),
    max_size=4,
)
lengths = st.one_of(st.integers(-2, 4), st.sampled_from([2**31, 2**63 - 1, -(2**63)]))


@st.composite
def requests(draw: st.DrawFn) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=draw(texts), model_version=draw(texts), id=draw(st.text(max_size=4)))

    def put(message, values) -> None:
        for name, value in values.items():
            message.parameters[name].CopyFrom(value)

    put(request, draw(parameters))
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(
            name=draw(st.sampled_from(["IMAGE", "IMAGE_FILE", "MODEL_INPUT", "TARGET", "", "other"])),
            datatype=draw(st.sampled_from(["UINT8", "FP32", "FP16", "BF16", "BYTES", "INT64", "INT32", "FP64", ""])),
            shape=draw(st.lists(lengths, max_size=5)),
        )
        put(tensor, draw(st.one_of(st.just({}), parameters)))
        if draw(st.booleans()):
            tensor.contents.uint_contents.extend(draw(st.lists(st.integers(0, 2**32 - 1), max_size=5)))
        if draw(st.booleans()):
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=5), max_size=3)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=40), max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        put(request.outputs.add(name=draw(st.one_of(st.sampled_from(NAMES), st.text(max_size=4)))), draw(parameters))
    return request


def take_or_refuse(request: oip.ModelInferRequest) -> None:
    """Read a request as the server does, up to where the engine gets it."""
    refusal: WhylightError | None = None
    try:
        question = read_request(request, CATALOG, LIMITS)
        try:
            checked = check_request(question.request, LIMITS, "one")
        except WhylightError as error:
            raise question.localised(error) from None
        for error in checked.refused.values():
            question.localised(error)
    except WhylightError as error:
        refusal = error
    if refusal is not None:
        assert not isinstance(refusal, InternalError)
        assert to_status(refusal).ByteSize() <= STATUS_BYTES


@settings(max_examples=400, deadline=None)
@given(requests())
@example(infer("x" * 70_000, parameters={"y" * 70_000: "z" * 70_000}))
@example(infer(parameters={"targets": '[{"similarity": {"image": "AAAA"}}]'}))
@example(infer(parameters={"targets": '[{"contrast": {"positive": {"contrast": {}}, "negative": {}}}]'}))
@example(infer(parameters={"options": '{"a": 1e999}'}))
@example(infer(parameters={"options": '{"a": ' + "9" * 5000 + "}"}))
@example(infer(parameters={"targets": '[{"region": {"left": "NaN", "right": "Infinity"}}]'}))
@example(infer(outputs={"OVERLAY": {"opacity": float("nan")}, "BOXES": {"threshold": 1e300}}))
def test_any_message_is_taken_or_refused(request: oip.ModelInferRequest):
    take_or_refuse(request)


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_taken_or_refused(seed: int):
    """Bits of a good request flipped, cut out and doubled."""
    chance = random.Random(seed)
    outputs = {"MAP": {"canvas": "input"}, "BOXES": {"limit": 3}}
    good = infer(parameters={"seed": 3, "targets": "[1]"}, outputs=outputs, IMAGE=pixels()[:, :4, :4])
    taken = 0
    for _ in range(100):
        data = bytearray(good.SerializeToString())
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data))
            kind = chance.randrange(3)
            if kind == 0:
                data[place] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del data[place : place + chance.randint(1, 8)]
            else:
                data[place:place] = data[place : place + chance.randint(1, 8)]
        try:
            request = oip.ModelInferRequest.FromString(bytes(data))
        except DecodeError:
            continue
        taken += 1
        take_or_refuse(request)
    assert taken > 0
