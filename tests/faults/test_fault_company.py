"""Who may share a batch and who may not, whichever call they came by, and what one of them does to the others when its
time is over or it goes away: nothing. (serving.md 2.2, pitfalls 1, 3, 4, 7, 8 and 10, over real sockets.)"""

from __future__ import annotations

import itertools
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fault_serving import Gate, bits, reason_of, request, serving, sync
from grpc_status import rpc_status
from infer_requests import Stub, array, infer

from whylight.open_inference import messages as oip
from whylight.testing.server import RunningServer
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc
from whylight.wire import dict_to_struct

MATES = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    bounds = {"batching": {"max_batch": MATES}, "queue": {"items": 32}, "limits": {"inputs": 32}}
    with serving(tmp_path_factory.mktemp("company"), **bounds) as running:
        yield running


@pytest.fixture(scope="module")
def oip_stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


BLANK = -1
"""The picture that is of one colour, at which the method fails where it is told to."""


def pixels(number: int, height: int = 32, width: int = 40) -> np.ndarray:
    if number == BLANK:
        return np.full((height, width, 3), 128, np.uint8)
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def asked(number: int, folder: str = "", how: str = "well") -> v1.ExplainRequest:
    """Ask for the map of a picture, so that it shares a batch with those who ask by the other protocol."""
    picture = pixels(number)
    tensor = v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=picture.shape, data=picture.tobytes())
    method = v1.MethodCall(name="faulty", options=dict_to_struct({"folder": folder, "how": how}))
    return v1.ExplainRequest(methods=[method], inputs=[v1.Input(tensor=tensor)])


def inferred(number: int, folder: str = "", **parameters: Any) -> oip.ModelInferRequest:
    """Ask for the same in the words of the Open Inference Protocol."""
    own = {"option.folder": folder, "option.how": "well", **parameters}
    return infer("tiny.faulty", parameters=own, outputs={"MAP": {}}, IMAGE=pixels(number)[None])


def map_of(answer: v1.ExplainResponse) -> bytes:
    return answer.results[0].explained.explanations[0].artifacts[0].tensor.data


@pytest.fixture(scope="module")
def alone(stub: explanation_pb2_grpc.ExplanationServiceStub) -> list[bytes]:
    found = [map_of(stub.Explain(asked(number), timeout=120)) for number in range(MATES)]
    assert len(set(found)) == MATES
    return found


@dataclass
class Held:
    """A worker that computes one batch and has another ahead, so that what comes next waits in the front end."""

    gate: Gate
    calls: list[grpc.Future]

    def let_go(self) -> None:
        self.gate.let(4)  # each computes, and renders
        for call in self.calls:
            call.result()


@pytest.fixture
def held(stub: explanation_pb2_grpc.ExplanationServiceStub, tmp_path: Path) -> Iterator[Held]:
    with Gate.open(tmp_path / "held") as gate:
        first = stub.Explain.future(request(9, folder=gate.folder, note="running"), timeout=120)
        assert gate.hear() == "compute 1"
        # A full batch, for it leaves though the worker is busy.
        ahead = stub.Explain.future(request(9, 9, 9, 9, folder=gate.folder, note="ahead"), timeout=120)
        sync(stub)
        yield Held(gate, [first, ahead])
        gate.let(1000)  # should the test have failed before it let go


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Gate]:
    with Gate.open(tmp_path / "ours") as gate:
        yield gate
        gate.let(1000)


class Mate:
    """A call of some kind for one picture: how to take it back, and the map that it got."""

    def __init__(self, call: Any, map_of_it: Callable[[], bytes]) -> None:
        self.cancel = call.cancel
        self.map = map_of_it


def of_each_kind(
    stub: explanation_pb2_grpc.ExplanationServiceStub, oip_stub: Stub, folder: str
) -> list[Callable[[], Mate]]:
    """Return what makes a call of each kind that takes part in batches."""

    def explain() -> Mate:
        call = stub.Explain.future(asked(0, folder), timeout=120)
        return Mate(call, lambda: map_of(call.result()))

    def stream_explain() -> Mate:
        sent = v1.StreamExplainRequest(id="mine", request=asked(1, folder))
        call = stub.StreamExplain(iter([sent]), timeout=120)
        return Mate(call, lambda: map_of(next(call).response))

    def model_infer() -> Mate:
        call = oip_stub.ModelInfer.future(inferred(2, folder), timeout=120)
        return Mate(call, lambda: array(call.result(), "MAP").tobytes())

    def model_stream_infer() -> Mate:
        call = oip_stub.ModelStreamInfer(iter([inferred(3, folder)]), timeout=120)
        return Mate(call, lambda: array(next(call).infer_response, "MAP").tobytes())

    return [explain, stream_explain, model_infer, model_stream_infer]


@pytest.mark.parametrize("victim", range(MATES), ids=["Explain", "StreamExplain", "ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("stage", ["waiting", "computing"])
def test_who_hangs_up_takes_nothing_from_mates_who_came_by_other_calls(
    stub: explanation_pb2_grpc.ExplanationServiceStub,
    oip_stub: Stub,
    alone: list[bytes],
    held: Held,
    ours: Gate,
    stage: str,
    victim: int,
) -> None:
    mates = []
    for make in of_each_kind(stub, oip_stub, ours.folder):
        mates.append(make())
        sync(stub)
    if stage == "waiting":
        mates[victim].cancel()
        sync(stub)
    held.let_go()
    left = MATES - (stage == "waiting")
    assert ours.hear() == f"compute {left}"
    if stage == "computing":
        mates[victim].cancel()
        sync(stub)
    ours.let(2)
    for number, mate in enumerate(mates):
        if number != victim:
            assert mate.map() == alone[number]


def test_a_time_that_is_over_ends_the_wait_though_a_batch_is_computed_and_nobody_else_notices(
    stub: explanation_pb2_grpc.ExplanationServiceStub, oip_stub: Stub, alone: list[bytes], held: Held, ours: Gate
) -> None:
    """Triton notices when the batch ends (its issue 7512). Only the server is told the time: no gRPC ends the call."""
    mates = [oip_stub.ModelInfer.future(inferred(number, ours.folder), timeout=240) for number in range(MATES - 1)]
    late = oip_stub.ModelInfer.future(inferred(MATES - 1, ours.folder, timeout=300_000), timeout=240)
    error = late.exception(timeout=120)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert not any(call.done() for call in [*held.calls, *mates]), "all of it while the worker was held"
    held.let_go()
    assert ours.hear() == f"compute {MATES - 1}", "nothing is done for who was late before it began"
    ours.let(2)
    for number, call in enumerate(mates):
        assert array(call.result(), "MAP").tobytes() == alone[number]


def begins(call: grpc.Future, gate: Gate) -> bool:
    """Wait until something begins at a gate, or a call has ended without it."""
    while not select.select([gate.said], [], [], 0.05)[0]:
        if call.done():
            return False
    return True


def test_a_time_that_is_over_at_the_worker_is_told_at_once_and_nobody_else_notices(
    stub: explanation_pb2_grpc.ExplanationServiceStub, oip_stub: Stub, alone: list[bytes], ours: Gate
) -> None:
    """A call of which one input computes: the timer ends it, not the batch."""
    for seconds in (1, 8, 64):  # more of it where the machine is so busy that it does not even begin in time
        call = oip_stub.ModelInfer.future(inferred(0, ours.folder, timeout=seconds * 1_000_000), timeout=240)
        if begins(call, ours):
            break
    error = call.exception(timeout=120)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    after = stub.Explain.future(asked(1), timeout=120)
    sync(stub)
    assert not after.done(), "the worker is at it still"
    ours.let(2)
    assert map_of(after.result()) == alone[1]


@pytest.mark.parametrize("guilty", ["Explain", "StreamExplain", "ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [("guilty", "METHOD_FAILED"), ("guilty-memory", "OUT_OF_MEMORY"), ("guilty-exit", "METHOD_FAILED")],
)
def test_of_a_batch_only_the_input_fails_at_which_the_plugin_does(
    stub: explanation_pb2_grpc.ExplanationServiceStub,
    oip_stub: Stub,
    alone: list[bytes],
    held: Held,
    how: str,
    reason: str,
    guilty: str,
) -> None:
    """Four calls of four kinds share a batch, and the method raises for one of them, whichever call it came by."""
    kinds = ["Explain", "StreamExplain", "ModelInfer", "ModelStreamInfer"]
    numbers = {kind: BLANK if kind == guilty else place for place, kind in enumerate(kinds)}
    unary = stub.Explain.future(asked(numbers["Explain"], how=how), timeout=120)
    wrapped = v1.StreamExplainRequest(id="mine", request=asked(numbers["StreamExplain"], how=how))
    stream = stub.StreamExplain(iter([wrapped]), timeout=120)
    infer_call = oip_stub.ModelInfer.future(inferred(numbers["ModelInfer"], **{"option.how": how}), timeout=120)
    sent = inferred(numbers["ModelStreamInfer"], **{"option.how": how})
    infer_stream = oip_stub.ModelStreamInfer(iter([sent]), timeout=120)
    sync(stub)
    held.let_go()

    def native(answer: v1.ExplainResponse) -> bytes | str:
        (result,) = answer.results
        if result.HasField("error"):
            assert "secret" not in str(result)
            return result.error.reason
        return result.explained.explanations[0].artifacts[0].tensor.data

    def by_protocol() -> bytes | str:
        error = infer_call.exception()
        if error is None:
            return array(infer_call.result(), "MAP").tobytes()
        assert "secret" not in str(rpc_status.from_call(error))
        return reason_of(error)

    def streamed() -> bytes | str:
        answer = next(infer_stream)
        if answer.error_message:
            assert "secret" not in answer.error_message
            return answer.error_message.partition(":")[0]
        return array(answer.infer_response, "MAP").tobytes()

    told = {
        "Explain": native(unary.result()),
        "StreamExplain": native(next(stream).response),
        "ModelInfer": by_protocol(),
        "ModelStreamInfer": streamed(),
    }
    assert told == {kind: reason if kind == guilty else alone[place] for place, kind in enumerate(kinds)}


def different() -> dict[str, v1.ExplainRequest]:
    """Requests of which no two may share a batch, each by what makes it so."""
    plain = asked(0)
    found = {"plain": plain}

    def other(what: str) -> v1.ExplainRequest:
        found[what] = v1.ExplainRequest.FromString(plain.SerializeToString())
        return found[what]

    other("options").methods[0].options.update({"note": "mine"})
    other("method").methods[0].name = "saliency"
    found["method"].methods[0].ClearField("options")
    other("methods").methods.add(name="saliency")
    other("outputs").outputs.add(map=v1.MapOutput(canvas=v1.CANVAS_ORIGINAL))
    other("predictions").top_predictions = 2
    numbers = np.random.default_rng(0).standard_normal((3, 32, 32)).astype("<f4")
    tensor = v1.Tensor(dtype=v1.DATA_TYPE_FLOAT32, shape=numbers.shape, data=numbers.tobytes())
    other("dtype").inputs[0].tensor.CopyFrom(tensor)
    return found


def test_what_may_not_share_a_batch_does_not_and_every_answer_is_its_own(
    stub: explanation_pb2_grpc.ExplanationServiceStub, held: Held
) -> None:
    """All of it waits at once, twice over and with other targets; TorchServe takes the first one's word for all."""
    wanted: list[tuple[str, v1.ExplainRequest]] = []
    for target, (what, sent) in itertools.product(range(2), different().items()):
        copy = v1.ExplainRequest.FromString(sent.SerializeToString())
        copy.targets.add(class_index=target)
        wanted.append((what, copy))
    calls = [stub.Explain.future(sent, timeout=120) for _, sent in wanted]
    sync(stub)
    held.gate.let(1000)  # whatever else is drawn in the thread of the gate's method passes it too
    held.let_go()
    for (what, sent), call in zip(wanted, calls, strict=True):
        answer, single = call.result(), stub.Explain(sent, timeout=120)
        sizes = [one.results[0].explained.explanations[0].execution.batch_size for one in (answer, single)]
        assert sizes == [2, 1], f"{what}: two that differ in their targets only are a batch, and others are none of it"
        for one in (answer, single):
            for explanation in one.results[0].explained.explanations:
                explanation.ClearField("execution")
        assert answer == single, what


def test_a_large_call_is_split_and_leaves_its_neighbour_a_place(
    stub: explanation_pb2_grpc.ExplanationServiceStub, held: Held
) -> None:
    numbers = [*range(10)]
    large = stub.Explain.future(request(*numbers), timeout=120)
    small = stub.Explain.future(request(11), timeout=120)
    sync(stub)
    held.let_go()
    answer = large.result()
    sizes = [result.explained.explanations[0].execution.batch_size for result in answer.results]
    assert len(sizes) == 10
    assert max(sizes) == MATES, "split, in batches that are full"
    assert bits(answer) == [bits(stub.Explain(request(number), timeout=120))[0] for number in numbers]
    assert bits(small.result()) == bits(stub.Explain(request(11), timeout=120))


def test_what_was_refused_takes_no_place(stub: explanation_pb2_grpc.ExplanationServiceStub, held: Held) -> None:
    """Calls that find no room are counted nowhere: when there is room again, there is all of it."""
    waiting = stub.Explain.future(request(*range(30)), timeout=120)
    sync(stub)
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Explain(request(0, 1, 2), timeout=120)
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    fits = stub.Explain.future(request(0, 1), timeout=120)
    sync(stub)
    assert not fits.done()
    waiting.cancel()
    sync(stub)
    full = stub.Explain.future(request(*range(30)), timeout=120)
    sync(stub)
    assert not full.done(), "all the room but for two is there again"
    held.let_go()
    assert len(bits(fits.result())) == 2
    assert len(bits(full.result())) == 30
