"""Explain: many inputs and methods in one call, what fails alone and what fails together."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from rpc_serving import FakeEngine, Served, failure_of, request, serving

from whylight.errors import InvalidInput, NotFound, Violation
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc
from whylight.wire import error_to_proto


def stub(served: Served) -> explanation_pb2_grpc.ExplanationServiceStub:
    return explanation_pb2_grpc.ExplanationServiceStub(served.channel)


async def test_explanations_are_methods_major(served: Served):
    sent = request(classes=(7, 8), methods=("cam", "saliency"))
    sent.inputs[1].targets.add(class_index=9)
    answer = await stub(served).Explain(sent)
    said = [
        [(explanation.method, explanation.target.class_index) for explanation in result.explained.explanations]
        for result in answer.results
    ]
    assert said == [
        [("cam", 7), ("saliency", 7)],
        [("cam", 8), ("cam", 9), ("saliency", 8), ("saliency", 9)],
    ]
    assert (answer.model, answer.model_digest) == ("one", "digest of one")


async def test_targets_of_the_request_are_for_inputs_without_their_own(served: Served):
    sent = request(classes=(7, 8))
    del sent.inputs[0].targets[:]
    sent.targets.add(class_label="cat")
    answer = await stub(served).Explain(sent)
    targets = [result.explained.explanations[0].target for result in answer.results]
    assert targets == [v1.Target(class_label="cat"), v1.Target(class_index=8)]


async def test_what_is_copied_into_each_input_is_only_what_we_know_of_it(served: Served):
    """A few hundred inputs would make hundreds of copies of what a stranger hides in a target."""
    hidden = b"\xfa\x3e\xa0\x8d\x06" + b"x" * 100_000  # field 1007 of the wire format, of 100,000 bytes
    sent = request(classes=(7,))
    sent.targets.append(v1.Target.FromString(v1.Target(rank=1).SerializeToString() + hidden))
    del sent.inputs[0].targets[:]
    assert sent.ByteSize() > 100_000
    await stub(served).Explain(sent)
    (work,) = served.engine.works
    assert work.inputs[0].ByteSize() < 100


async def test_no_target_at_all_means_the_top_prediction(served: Served):
    sent = request()
    del sent.inputs[0].targets[:]
    answer = await stub(served).Explain(sent)
    assert answer.results[0].explained.explanations[0].target == v1.Target(rank=0)


async def test_equal_work_has_equal_specs_however_it_is_put(served: Served):
    plain, spelled_out = request(), request()
    spelled_out.model = "one"
    spelled_out.top_predictions = 5
    spelled_out.outputs.add(name="map", map=v1.MapOutput(canvas=v1.CANVAS_NATIVE, dtype=v1.DATA_TYPE_FLOAT32))
    spelled_out.methods[0].seed = 3
    await stub(served).Explain(plain)
    await stub(served).Explain(spelled_out)
    first, second = served.engine.works
    assert first.spec == second.spec
    assert (first.seeds, second.seeds) == ((None,), (3,))


async def test_a_bad_input_fails_alone_and_in_its_place(served: Served):
    sent = request(classes=(0, 1, 2, 3, 4))
    sent.inputs[1].ClearField("image")
    sent.inputs[2].tensor.CopyFrom(v1.Tensor(dtype=v1.DATA_TYPE_FLOAT32, shape=[3, 4, 4], data=b"1234"))
    sent.inputs[3].targets.add(class_index=-1)
    answer = await stub(served).Explain(sent)
    assert [result.WhichOneof("outcome") for result in answer.results] == [
        "explained",
        "error",
        "error",
        "error",
        "explained",
    ]
    errors = [(result.error.reason, result.error.violations[0].field) for result in answer.results[1:4]]
    assert errors == [
        ("REQUEST_INVALID", "inputs[1]"),
        ("TENSOR_INVALID", "inputs[2].tensor.data"),
        ("TARGET_INVALID", "inputs[3].targets[1].class_index"),
    ]
    assert answer.results[4].explained.explanations[0].target.class_index == 4
    assert [len(work.inputs) for work in served.engine.works] == [2]


async def test_a_companion_that_is_no_tensor_fails_its_input(served: Served):
    sent = request(classes=(0, 1))
    sent.inputs[1].companions["question"].CopyFrom(v1.Tensor(dtype=v1.DATA_TYPE_INT64, shape=[2], data=b"1234"))
    answer = await stub(served).Explain(sent)
    assert answer.results[0].WhichOneof("outcome") == "explained"
    error = answer.results[1].error
    assert (error.reason, error.violations[0].field) == ("TENSOR_INVALID", "inputs[1].companions[question].data")


async def test_targets_are_not_multiplied_beyond_a_message():
    """The request's own targets are copied into each input: a few megabytes must not become gigabytes."""
    async with serving(limits={"message_bytes": 2**20}, batching={"max_batch_bytes": 2**20}) as served:
        sent = request(classes=(0,) * 8)
        for item in sent.inputs:
            item.ClearField("targets")
        sent.targets.add(similarity=v1.Similarity(image=b"x" * 100_000))
        assert len((await stub(served).Explain(sent)).results) == 8
        sent.targets.add(similarity=v1.Similarity(image=b"y" * 100_000))
        failure = await failure_of(stub(served).Explain(sent))
        assert (failure.reason, failure.fields) == ("REQUEST_TOO_LARGE", ["targets"])


async def test_when_every_input_is_bad_the_engine_is_not_asked(served: Served):
    answer = await stub(served).Explain(v1.ExplainRequest(methods=[v1.MethodCall(name="cam")], inputs=[v1.Input()]))
    assert answer.results[0].error.reason == "REQUEST_INVALID"
    assert served.engine.works == []


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        (lambda r: r.ClearField("inputs"), "REQUEST_INVALID", "inputs"),
        (lambda r: r.ClearField("methods"), "REQUEST_INVALID", "methods"),
        (lambda r: r.methods.add(), "REQUEST_INVALID", "methods[1].name"),
        (lambda r: r.methods.add(name="m" * 257), "REQUEST_INVALID", "methods[1].name"),
        (lambda r: r.inputs.extend([v1.Input(image=b"x")] * 256), "TOO_MANY_INPUTS", "inputs"),
        (lambda r: r.methods.extend([v1.MethodCall(name="x")] * 16), "TOO_MANY_METHODS", "methods"),
        (lambda r: r.targets.extend([v1.Target(rank=0)] * 65), "TOO_MANY_TARGETS", "targets"),
        (lambda r: r.outputs.extend([v1.OutputSpec()] * 17), "TOO_MANY_OUTPUTS", "outputs"),
        (lambda r: r.methods[0].options.update({"x": "y" * 70_000}), "OPTIONS_TOO_LARGE", "methods[0].options"),
        (lambda r: r.targets.add(), "TARGET_INVALID", "targets[0]"),
        (lambda r: r.outputs.add(), "OUTPUT_INVALID", "outputs[0]"),
        (lambda r: r.outputs.extend([v1.OutputSpec(map=v1.MapOutput())] * 2), "OUTPUT_INVALID", "outputs[1].name"),
        (lambda r: r.outputs.add(boxes=v1.BoxesOutput(threshold=2)), "OUTPUT_INVALID", "outputs[0].boxes.threshold"),
    ],
)
async def test_a_bad_request_fails_before_any_work(served: Served, change, reason: str, field: str):
    sent = request()
    change(sent)
    failure = await failure_of(stub(served).Explain(sent))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert failure.fields == [field]
    assert served.engine.works == []
    assert (await stub(served).Explain(request())).results


@pytest.mark.parametrize("length", [2**62, 2**31, -1])
async def test_no_shape_overflows(served: Served, length: int):
    sent = request()
    sent.inputs[0].tensor.CopyFrom(v1.Tensor(dtype=v1.DATA_TYPE_FLOAT32, shape=[length, length, 4], data=b""))
    answer = await stub(served).Explain(sent)
    assert answer.results[0].error.violations[0].field == "inputs[0].tensor.shape"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("input.image", "inputs[1].image"),
        ("input", "inputs[1]"),
        ("input.targets[0].class_label", "targets[0].class_label"),
        ("methods[0].options.layer", "methods[0].options.layer"),
        ("outputs[0].picture.colour_map", "outputs[0].picture.colour_map"),
    ],
)
async def test_fields_of_an_input_are_named_as_the_caller_knows_them(served: Served, said: str, meant: str):
    def second_fails(work):
        good = FakeEngine.explained(work)
        return [good[0], v1.InputResult(error=error_to_proto(InvalidInput("bad", field=said)))]

    served.engine.answer = second_fails
    sent = request(classes=(0, 1))
    del sent.inputs[1].targets[:]
    sent.targets.add(class_index=0)
    answer = await stub(served).Explain(sent)
    assert answer.results[0].HasField("explained")
    assert [violation.field for violation in answer.results[1].error.violations] == [meant]


async def test_what_is_wrong_with_a_plan_is_told_in_the_workers_words(served: Served):
    def refuse(work):
        raise NotFound(
            "no such layer", reason="LAYER_NOT_FOUND", violations=[Violation("methods[1].options.layer", "")]
        )

    served.engine.answer = refuse
    failure = await failure_of(stub(served).Explain(request(methods=("saliency", "cam"))))
    assert (failure.code, failure.fields) == (grpc.StatusCode.NOT_FOUND, ["methods[1].options.layer"])


async def test_all_methods_of_a_call_are_one_work(served: Served):
    sent = request(classes=(0, 1), methods=("cam", "saliency", "cam"))
    sent.methods[1].seed = 5
    await stub(served).Explain(sent)
    (work,) = served.engine.works
    assert [method.name for method in work.spec.methods] == ["cam", "saliency", "cam"]
    assert work.seeds == (None, 5, None)
    assert not work.spec.methods[1].HasField("seed")


async def test_a_caller_that_leaves_takes_its_work_back(served: Served):
    served.engine.hold.clear()
    call = stub(served).Explain(request(methods=("cam", "saliency")))
    await served.engine.arrived.get()
    call.cancel()
    await served.server._admission.wait_idle()
    assert served.engine.cancelled == 1


async def test_the_deadline_reaches_the_engine(served: Served):
    before = asyncio.get_running_loop().time()
    await stub(served).Explain(request(), timeout=50)
    await stub(served).Explain(request())
    first, second = served.engine.works
    assert before < first.deadline <= asyncio.get_running_loop().time() + 51  # the header rounds up
    assert second.deadline is None


async def test_a_deadline_of_a_millisecond_is_exceeded(served: Served):
    served.engine.hold.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(served).Explain(request(), timeout=0.001)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_before_the_models_are_loaded_the_caller_is_told_when_to_come_again(served: Served):
    served.engine.catalog = None
    failure = await failure_of(stub(served).Explain(request()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
    assert failure.retry_seconds == 2
    assert failure.trailers["grpc-retry-pushback-ms"] == "2000"


async def test_limits_are_the_operators():
    async with serving(limits={"inputs": 1, "tensor_elements": 8}) as served:
        failure = await failure_of(stub(served).Explain(request(classes=(0, 1))))
        assert failure.reason == "TOO_MANY_INPUTS"
        sent = request()
        sent.inputs[0].tensor.CopyFrom(v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=[3, 3], data=bytes(9)))
        answer = await stub(served).Explain(sent)
        assert answer.results[0].error.reason == "TENSOR_TOO_LARGE"


@pytest.mark.parametrize(
    ("wrong", "reason", "field"),
    [
        ({"inputs": [], "methods": [], "priority": 9}, "REQUEST_INVALID", "inputs"),
        ({"methods": [], "model": "x" * 1000}, "REQUEST_INVALID", "methods"),
        ({"outputs": [v1.OutputSpec()] * 17, "model": "x" * 1000}, "TOO_MANY_OUTPUTS", "outputs"),
        ({"model": "x" * 1000, "priority": 9}, "REQUEST_INVALID", "model"),
        ({"priority": 9, "methods": [v1.MethodCall()]}, "REQUEST_INVALID", "priority"),
        ({"methods": [v1.MethodCall()], "outputs": [v1.OutputSpec(name="o")]}, "REQUEST_INVALID", "methods[0].name"),
    ],
)
async def test_explain_and_evaluate_refuse_in_one_order(served: Served, wrong: dict, reason: str, field: str):
    """Each request has several faults; both calls tell of the same one."""
    sound = request()
    fields = {"methods": sound.methods, "inputs": sound.inputs, **wrong}
    metrics = [v1.MetricCall(name="insertion")]
    for call, message in (
        (stub(served).Explain, v1.ExplainRequest(**fields)),
        (stub(served).Evaluate, v1.EvaluateRequest(metrics=metrics, **fields)),
    ):
        failure = await failure_of(call(message))
        assert (failure.reason, failure.fields) == (reason, [field])


async def test_metrics_are_checked_behind_the_methods(served: Served):
    sound = request()
    evaluation = v1.EvaluateRequest(methods=sound.methods, inputs=sound.inputs)
    failure = await failure_of(stub(served).Evaluate(evaluation))
    assert failure.fields == ["metrics"]
    evaluation.metrics.add()
    failure = await failure_of(stub(served).Evaluate(evaluation))
    assert failure.fields == ["metrics[0].name"]
    evaluation.methods.add()
    failure = await failure_of(stub(served).Evaluate(evaluation))
    assert failure.fields == ["methods[1].name"]
