"""GRPCInferenceService on a real socket, over an engine that does what a test says."""

from __future__ import annotations

import asyncio
import json
import math

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from infer_requests import Stub, array, infer, pixels
from rpc_serving import FakeEngine, Served, failure_of, serving

from whylight.engine.engine import State
from whylight.errors import Overloaded, Unsupported
from whylight.open_inference import messages as oip
from whylight.rpc.authentication import FREE, scope_of
from whylight.security import Scope
from whylight.security.new_token import new_token
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import error_to_proto


def explained(work) -> list[v1.InputResult]:
    """One explanation for each target, with the artifacts that were asked for; its maps hold the index of the input."""
    results = []
    for index, item in enumerate(work.inputs):
        result = v1.InputResult()
        result.explained.predictions.add(class_index=4, label="dog", score=1.5, probability=0.75)
        for target in item.targets:
            explanation = result.explained.explanations.add(method=work.spec.methods[0].name, target=target)
            explanation.target_label, explanation.target_score = "cat", 2.5
            for spec in work.spec.outputs:
                explanation.artifacts.append(artifact(spec, index))
        results.append(result)
    return results


def artifact(spec: v1.OutputSpec, index: int) -> v1.Artifact:
    made = v1.Artifact(name=spec.name)
    if spec.HasField("picture"):
        made.picture.data = b"PNG %d" % index
    elif spec.HasField("boxes"):
        made.boxes.boxes.add(left=1, top=2, right=3, bottom=4, score=0.5)
    elif spec.HasField("mask"):
        made.tensor.CopyFrom(v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=[2, 2], data=bytes([0, 1, 1, 0])))
    else:
        data = np.full((2, 3), index, "<f4").tobytes()
        made.tensor.CopyFrom(v1.Tensor(dtype=v1.DATA_TYPE_FLOAT32, shape=[2, 3], data=data))
    return made


@pytest.fixture
def stub(served: Served):
    served.engine.answer = explained
    return Stub(served.channel)


async def test_every_result_has_its_row(stub):
    targets = np.array([[0, 1], [2, 3]])
    request = infer("two.grad-cam", id="abc", IMAGE=pixels(2), TARGET=targets)
    answer = await stub.ModelInfer(request)
    assert (answer.model_name, answer.id) == ("two.grad-cam", "abc")
    assert answer.parameters["model_digest"].string_param == "digest of two"
    assert array(answer, "MAP").shape == (2, 2, 2, 3)
    assert [float(one.max()) for one in array(answer, "MAP")] == [0, 1]
    assert array(answer, "TARGET_INDEX").tolist() == targets.tolist()
    assert array(answer, "TARGET_LABEL").tolist() == [[b"cat"] * 2] * 2
    assert array(answer, "TARGET_SCORE").tolist() == [[2.5] * 2] * 2
    assert array(answer, "PREDICTED_INDEX").tolist() == [[4], [4]]
    assert array(answer, "PREDICTED_LABEL").tolist() == [[b"dog"], [b"dog"]]
    assert array(answer, "PREDICTED_SCORE").tolist() == [[1.5], [1.5]]
    assert array(answer, "PREDICTED_PROBABILITY").tolist() == [[0.75], [0.75]]
    assert len(answer.outputs) == len(answer.raw_output_contents) == 8


async def test_wanted_outputs_come_in_their_order_and_nothing_else(stub):
    outputs = {"MASK": {}, "OVERLAY": {}, "BOXES": {"limit": 2}, "EXPLANATION": {}}
    answer = await stub.ModelInfer(infer(outputs=outputs, IMAGE=pixels(2)))
    assert [one.name for one in answer.outputs] == list(outputs)
    assert array(answer, "MASK").tolist() == [[[[0, 1], [1, 0]]]] * 2
    assert array(answer, "OVERLAY").tolist() == [[b"PNG 0"], [b"PNG 1"]]
    boxes = array(answer, "BOXES")
    assert boxes.shape == (2, 1, 2, 5)
    assert boxes[0, 0].tolist() == [[1, 2, 3, 4, 0.5], [0, 0, 0, 0, 0]]
    facts = json_format.Parse(array(answer, "EXPLANATION")[0, 0], v1.Explanation())
    assert (facts.method, facts.target_score, len(facts.artifacts)) == ("grad-cam", 2.5, 0)


async def test_many_facts_are_written_beside_other_calls_and_are_the_same(stub):
    outputs = {"EXPLANATION": {}, "TARGET_SCORE": {}}
    (few, many) = [await stub.ModelInfer(infer(outputs=outputs, IMAGE=pixels(count))) for count in (2, 40)]
    assert array(many, "EXPLANATION").shape == (40, 1)
    assert set(array(many, "EXPLANATION").ravel()) == set(array(few, "EXPLANATION").ravel())


async def test_a_target_that_is_no_class_has_no_index(stub):
    targets = json.dumps([{"neuron": {"layer": "conv", "channel": 1}}])
    answer = await stub.ModelInfer(infer(parameters={"targets": targets}))
    assert array(answer, "TARGET_INDEX").tolist() == [[-1]]


async def test_maps_of_several_sizes_are_no_tensor(served: Served, stub):
    def ragged(work):
        results = explained(work)
        del results[1].explained.explanations[0].artifacts[0].tensor.shape[:]
        return results

    served.engine.answer = ragged
    failure = await failure_of(stub.ModelInfer(infer(IMAGE=pixels(2))))
    assert (failure.code, failure.reason, failure.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "OUTPUT_INVALID",
        ["outputs[MAP]"],
    )


async def test_one_input_that_fails_fails_its_call_and_is_named(served: Served, stub):
    def second_fails(work):
        results = explained(work)
        error = Unsupported("too small", reason="INPUT_UNSUPPORTED", field="input.tensor.shape")
        results[1].error.CopyFrom(error_to_proto(error))
        return results

    served.engine.answer = second_fails
    failure = await failure_of(stub.ModelInfer(infer(IMAGE=pixels(2))))
    assert (failure.code, failure.reason, failure.fields) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "INPUT_UNSUPPORTED",
        ["inputs[IMAGE][1].shape"],
    )
    assert failure.metadata["input"] == "1"


async def test_an_overloaded_server_says_when_to_come_again(served: Served, stub):
    def overloaded(work):
        raise Overloaded("full", retry_after=2.0)

    served.engine.answer = overloaded
    failure = await failure_of(stub.ModelInfer(infer()))
    assert (failure.code, failure.retry_seconds) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 2)
    assert failure.trailers["grpc-retry-pushback-ms"] == "2000"


async def test_an_answer_above_its_limit_is_refused():
    async with serving(server={"response_bytes": 4096}) as served:
        served.engine.answer = explained
        failure = await failure_of(Stub(served.channel).ModelInfer(infer(IMAGE=pixels(90))))
        assert failure.reason == "RESPONSE_TOO_LARGE"


async def test_the_earlier_of_two_deadlines_counts(served: Served, stub):
    loop = asyncio.get_running_loop()
    for parameters, timeout, most in (
        ({}, None, math.inf),
        ({"timeout": 40_000_000}, None, 40),
        ({"timeout": 40_000_000}, 30, 30),
        ({"timeout": 20_000_000}, 30, 20),
    ):
        before = loop.time()
        await stub.ModelInfer(infer(parameters=parameters), timeout=timeout)
        deadline, after = served.engine.works[-1].deadline, loop.time()
        if deadline is None:
            assert most == math.inf
        else:
            assert before + most - 1 < deadline < after + most + 1  # the header rounds


async def test_readiness_follows_the_engine(served: Served, stub):
    def ready(name: str, version: str = ""):
        return stub.ModelReady(oip.ModelReadyRequest(name=name, version=version))

    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
    assert (await ready("one.grad-cam")).ready
    assert (await ready("one")).ready
    for name, version in (("three.grad-cam", ""), ("one.x", ""), ("", ""), ("one", "2")):
        assert not (await ready(name, version)).ready
    served.engine.catalog.methods[0].needs.append("gap-head")
    assert not (await ready("one.cam")).ready
    served.engine.catalog.models[1].state = catalog_pb2.MODEL_STATE_LOADING
    assert not (await ready("two.grad-cam")).ready
    assert not (await ready("two")).ready
    served.set_state(State.UNAVAILABLE)
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert not (await stub.ServerReady(oip.ServerReadyRequest())).ready
    assert not (await ready("one.grad-cam")).ready
    served.engine.catalog = None
    assert not (await ready("one.grad-cam")).ready
    assert (await failure_of(stub.ModelInfer(infer()))).reason == "MODEL_LOADING"


async def test_health_knows_the_service(served: Served):
    check = health_pb2_grpc.HealthStub(served.channel).Check
    answer = await check(health_pb2.HealthCheckRequest(service=oip.SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_metadata_and_configuration_agree(served: Served, stub):
    companion = served.engine.catalog.models[0].companions["question"]
    companion.dtype = v1.DATA_TYPE_INT64
    companion.shape.append(-1)
    described = await stub.ModelMetadata(oip.ModelMetadataRequest(name="one.grad-cam"))
    config = (await stub.ModelConfig(oip.ModelConfigRequest(name="one.grad-cam"))).config
    assert described.name == config.name == "one.grad-cam"
    assert config.max_batch_size == 256
    for tensors, others in ((described.inputs, config.input), (described.outputs, config.output)):
        assert [one.name for one in tensors] == [one.name for one in others]
        for one, other in zip(tensors, others, strict=True):
            assert list(one.shape) in ([-1, *other.dims], [-1])
            assert one.shape[0] == -1
    (question,) = [one for one in config.input if one.name == "question"]
    assert (list(question.dims), question.optional) == ([-1], False)
    answer = await stub.ModelInfer(infer())
    by_name = {one.name: one for one in described.outputs}
    for output in answer.outputs:
        assert by_name[output.name].datatype == output.datatype
        assert len(by_name[output.name].shape) == len(output.shape)


async def test_the_index_lists_models_and_methods(served: Served, stub):
    served.engine.catalog.methods[0].needs.append("gap-head")
    index = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
    states = {one.name: (one.state, one.reason) for one in index.models}
    assert len(states) == 8
    assert states["two.saliency"] == ("READY", "")
    assert states["one.cam"] == ("UNAVAILABLE", "the model lacks gap-head")
    served.engine.catalog.models[1].state = catalog_pb2.MODEL_STATE_UNLOADED
    index = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
    states = {one.name: (one.state, one.reason) for one in index.models}
    assert states["two.saliency"] == states["two"] == ("UNAVAILABLE", "the model is unloaded")
    index = await stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))
    assert {one.name for one in index.models} == {name for name, (state, _) in states.items() if state == "READY"}


async def test_requests_are_counted(served: Served, stub):
    def timed(work):
        results = explained(work)
        for result in results:
            for explanation in result.explained.explanations:
                execution = explanation.execution
                execution.batch_size = 4
                execution.queue_time.FromNanoseconds(10)
                execution.decode_time.FromNanoseconds(20)
                execution.compute_time.FromNanoseconds(30)
                execution.render_time.FromNanoseconds(40)
        return results

    served.engine.answer = timed
    ask = oip.ModelStatisticsRequest(name="one.grad-cam")
    (none,) = (await stub.ModelStatistics(ask)).model_stats
    assert (none.name, none.inference_count, none.last_inference, len(none.batch_stats)) == ("one.grad-cam", 0, 0, 0)
    await stub.ModelInfer(infer(IMAGE=pixels(3), TARGET=np.array([[0, 1]] * 3)))
    stream = stub.ModelStreamInfer()
    await stream.write(infer(IMAGE=pixels(5)))
    await stream.read()
    stream.cancel()
    served.engine.answer = lambda work: (_ for _ in ()).throw(Overloaded("full"))
    await failure_of(stub.ModelInfer(infer()))
    (found,) = (await stub.ModelStatistics(ask)).model_stats
    stats = found.inference_stats
    assert (found.inference_count, found.execution_count) == (8, 2)
    assert (stats.success.count, stats.fail.count, stats.queue.count) == (2, 1, 8)
    assert (stats.queue.ns, stats.compute_input.ns, stats.compute_infer.ns) == (80, 160, 240)
    assert stats.compute_output.ns == 3 * 80 + 5 * 40
    assert stats.success.ns > 0
    assert found.last_inference > 0
    assert [(one.batch_size, one.compute_infer.count) for one in found.batch_stats] == [(4, 8)]
    every = (await stub.ModelStatistics(oip.ModelStatisticsRequest())).model_stats
    assert {one.name: one.inference_count for one in every if one.inference_count} == {"one.grad-cam": 8}
    missing = stub.ModelStatistics(oip.ModelStatisticsRequest(name="three"))
    assert (await failure_of(missing)).reason == "MODEL_NOT_FOUND"


async def test_an_answer_that_was_kept_is_no_work(served: Served, stub):
    def kept(work):
        results = explained(work)
        results[0].explained.explanations[0].execution.cached = True
        return results

    served.engine.answer = kept
    await stub.ModelInfer(infer())
    (found,) = (await stub.ModelStatistics(oip.ModelStatisticsRequest(name="one.grad-cam"))).model_stats
    assert (found.inference_stats.success.count, found.inference_count) == (1, 0)


async def test_a_call_of_triton_that_is_not_here_is_unimplemented(served: Served):
    call = served.channel.unary_unary(f"/{oip.SERVICE}/CudaSharedMemoryRegister")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_protocol_can_be_switched_off():
    async with serving(open_inference={"enabled": False}) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(served.channel).ServerLive(oip.ServerLiveRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_bytes_that_are_no_request_are_refused(served: Served):
    call = served.channel.unary_unary(f"/{oip.SERVICE}/ModelInfer")
    assert (await failure_of(call(b"\xff\xff"))).reason == "REQUEST_INVALID"


class Holds:
    """Lets the test say when the request for a class is answered."""

    def __init__(self, engine: FakeEngine) -> None:
        self.events: dict[int, asyncio.Event] = {}
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.cancelled: asyncio.Queue[int] = asyncio.Queue()
        engine.explain = self.explain

    async def explain(self, work):
        index = work.inputs[0].targets[0].class_index
        event = self.events.setdefault(index, asyncio.Event())
        self.begun.put_nowait(index)
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait(index)
            raise
        return explained(work)

    def release(self, index: int) -> None:
        self.events.setdefault(index, asyncio.Event()).set()


def numbered(index: int) -> oip.ModelInferRequest:
    return infer(id=f"id-{index}", parameters={"target": index})


async def test_a_stream_works_at_once_and_answers_in_order(served: Served, stub):
    holds = Holds(served.engine)
    stream = stub.ModelStreamInfer()
    for index in range(3):
        await stream.write(numbered(index))
    assert [await holds.begun.get() for _ in range(3)] == [0, 1, 2]
    for index in (2, 1, 0):
        holds.release(index)
    await stream.done_writing()
    answers = [answer async for answer in stream]
    assert [answer.infer_response.id for answer in answers] == ["id-0", "id-1", "id-2"]
    assert [int(array(answer.infer_response, "TARGET_INDEX")[0, 0]) for answer in answers] == [0, 1, 2]
    assert not any(answer.error_message for answer in answers)


async def test_a_request_of_a_stream_fails_alone(stub):
    stream = stub.ModelStreamInfer()
    for request in (numbered(0), infer("nobody", id="lost"), numbered(2)):
        await stream.write(request)
    await stream.done_writing()
    first, lost, last = [answer async for answer in stream]
    assert (first.infer_response.id, last.infer_response.id) == ("id-0", "id-2")
    assert lost.error_message.startswith("MODEL_NOT_FOUND: ")
    assert lost.infer_response.id == "lost"
    assert lost.infer_response.parameters["reason"].string_param == "MODEL_NOT_FOUND"
    assert lost.infer_response.parameters["code"].int64_param == grpc.StatusCode.NOT_FOUND.value[0]
    assert lost.infer_response.parameters["field"].string_param == "model_name"


async def test_a_fault_in_a_stream_tells_no_secrets(served: Served, stub):
    def broken(work):
        raise RuntimeError("a secret path")

    served.engine.answer = broken
    stream = stub.ModelStreamInfer()
    await stream.write(numbered(0))
    answer = await stream.read()
    assert answer.error_message.startswith("INTERNAL: ")
    assert "secret" not in str(answer)
    stream.cancel()


async def test_a_stream_takes_no_more_than_its_window():
    async with serving(server={"stream_window": 2}) as served:
        holds = Holds(served.engine)
        stream = Stub(served.channel).ModelStreamInfer()
        for index in range(4):
            await stream.write(numbered(index))
        assert [await holds.begun.get() for _ in range(2)] == [0, 1]
        holds.release(1)  # done, but its answer waits for the one before it, so it holds its place in the window
        stub = Stub(served.channel)
        for _ in range(3):
            await stub.ServerLive(oip.ServerLiveRequest())
        assert holds.begun.empty()
        holds.release(0)
        assert [await holds.begun.get() for _ in range(2)] == [2, 3]
        stream.cancel()


async def test_whoever_hangs_up_takes_back_what_is_open(served: Served, stub):
    holds = Holds(served.engine)
    stream = stub.ModelStreamInfer()
    for index in range(3):
        await stream.write(numbered(index))
        await holds.begun.get()
    stream.cancel()
    assert sorted([await asyncio.wait_for(holds.cancelled.get(), 60) for _ in range(3)]) == [0, 1, 2]


async def test_a_draining_server_answers_what_is_open_and_ends_the_stream(served: Served, stub):
    holds = Holds(served.engine)
    stream = stub.ModelStreamInfer()
    await stream.write(numbered(0))
    await holds.begun.get()
    draining = asyncio.ensure_future(served.server.drain(asyncio.Event()))
    await served.server._admission.wait_closed()
    assert (await failure_of(stub.ModelInfer(infer()))).reason == "DRAINING"
    holds.release(0)
    assert (await stream.read()).infer_response.id == "id-0"
    assert (await failure_of(stream.read())).reason == "DRAINING"
    assert await draining is True


async def test_what_is_no_request_ends_a_stream_behind_the_answers_before_it(served: Served, stub):
    served.engine.answer = explained
    stream = served.channel.stream_stream(
        f"/{oip.SERVICE}/ModelStreamInfer", response_deserializer=oip.ModelStreamInferResponse.FromString
    )()
    await stream.write(numbered(0).SerializeToString())
    await stream.write(b"\xff\xff")
    assert (await stream.read()).infer_response.id == "id-0"
    assert (await failure_of(stream.read())).reason == "REQUEST_INVALID"


def test_every_call_has_its_scope():
    wanted = {
        "ServerLive": None,
        "ServerReady": None,
        "ModelReady": None,
        "ServerMetadata": Scope.CATALOG,
        "ModelMetadata": Scope.CATALOG,
        "ModelConfig": Scope.CATALOG,
        "ModelStatistics": Scope.CATALOG,
        "RepositoryIndex": Scope.CATALOG,
        "ModelInfer": Scope.EXPLAIN,
        "ModelStreamInfer": Scope.EXPLAIN,
    }
    calls = {method.name for method in oip.POOL.FindServiceByName(oip.SERVICE).methods}
    assert calls == set(wanted)
    for name, scope in wanted.items():
        path = f"/{oip.SERVICE}/{name}"
        assert path in FREE if scope is None else (path not in FREE and scope_of(path) is scope)


async def test_probes_need_no_token_and_everybody_else_does(tmp_path):
    explainer, reader = new_token("explainer", ["explain"]), new_token("reader", ["catalog"])
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(explainer.lines + reader.lines)
    tokens.chmod(0o600)
    async with serving(authentication={"tokens_file": str(tokens)}) as served:
        served.engine.answer = explained
        stub = Stub(served.channel)
        assert (await stub.ModelReady(oip.ModelReadyRequest(name="one.cam"))).ready
        assert not (await stub.ModelReady(oip.ModelReadyRequest(name="one.can"))).ready

        def bearing(token):
            return (("authorization", f"Bearer {token.token}"),)

        assert (await failure_of(stub.ModelInfer(infer()))).code is grpc.StatusCode.UNAUTHENTICATED
        wrong = await failure_of(stub.ModelInfer(infer(), metadata=bearing(reader)))
        assert wrong.code is grpc.StatusCode.PERMISSION_DENIED
        index = oip.RepositoryIndexRequest()
        wrong = await failure_of(stub.RepositoryIndex(index, metadata=bearing(explainer)))
        assert wrong.code is grpc.StatusCode.PERMISSION_DENIED
        assert (await stub.ModelInfer(infer(), metadata=bearing(explainer))).outputs
        assert (await stub.RepositoryIndex(index, metadata=bearing(reader))).models
        stream = stub.ModelStreamInfer(metadata=bearing(explainer))
        await stream.write(numbered(0))
        assert (await stream.read()).infer_response.id == "id-0"
        stream.cancel()
