"""StreamExplain: many requests over one call, each with its own fate."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from rpc_serving import FakeEngine, Served, failure_of, request, serving

from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc


def open_stream(served: Served, **arguments):
    return explanation_pb2_grpc.ExplanationServiceStub(served.channel).StreamExplain(**arguments)


def item(id: str, index: int = 0) -> v1.StreamExplainRequest:
    return v1.StreamExplainRequest(id=id, request=request(classes=(index,)))


class Holds:
    """Lets the test say when the request for a class is answered."""

    def __init__(self, engine: FakeEngine) -> None:
        self.events: dict[int, asyncio.Event] = {}
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.cancelled: list[int] = []
        engine.explain = self.explain

    async def explain(self, work):
        index = work.inputs[0].targets[0].class_index
        event = self.events.setdefault(index, asyncio.Event())
        self.begun.put_nowait(index)
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancelled.append(index)
            raise
        return FakeEngine.explained(work)

    def release(self, index: int) -> None:
        self.events.setdefault(index, asyncio.Event()).set()


def class_of(response: v1.StreamExplainResponse) -> int:
    return response.response.results[0].explained.explanations[0].target.class_index


async def test_answers_come_as_they_are_ready_with_their_ids(served: Served):
    holds = Holds(served.engine)
    stream = open_stream(served)
    for index in range(3):
        await stream.write(item(f"id-{index}", index))
        assert await holds.begun.get() == index
    await stream.done_writing()
    seen = []
    for index in (2, 0, 1):
        holds.release(index)
        response = await stream.read()
        seen.append((response.id, class_of(response)))
    assert seen == [("id-2", 2), ("id-0", 0), ("id-1", 1)]
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_an_id_that_is_open_is_refused_and_free_again_after_its_answer(served: Served):
    holds = Holds(served.engine)
    stream = open_stream(served)
    await stream.write(item("a", 0))
    await stream.write(item("a", 1))
    refused = await stream.read()
    assert (refused.id, refused.error.reason, refused.error.violations[0].field) == ("a", "ID_TAKEN", "id")
    holds.release(0)
    assert class_of(await stream.read()) == 0
    holds.release(2)
    await stream.write(item("a", 2))
    await stream.done_writing()
    assert class_of(await stream.read()) == 2
    assert await stream.read() is grpc.aio.EOF


async def test_a_bad_request_does_not_end_the_stream(served: Served):
    stream = open_stream(served)
    await stream.write(v1.StreamExplainRequest(id="bad"))
    response = await stream.read()
    assert (response.id, response.error.reason, response.error.code) == ("bad", "REQUEST_INVALID", 3)
    await stream.write(item("good", 5))
    assert class_of(await stream.read()) == 5
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_a_fault_of_ours_fails_one_request_and_tells_nothing(served: Served, caplog):
    def crash(work):
        raise ValueError("/secret")

    served.engine.answer = crash
    stream = open_stream(served, metadata=(("x-request-id", "stream-1"),))
    await stream.write(item("a"))
    response = await stream.read()
    assert (response.error.reason, dict(response.error.metadata)) == ("INTERNAL", {"request_id": "stream-1"})
    assert "secret" not in str(response)
    served.engine.answer = served.engine.explained
    await stream.write(item("b", 1))
    assert class_of(await stream.read()) == 1
    stream.cancel()


async def test_no_more_than_the_window_is_worked_on():
    async with serving(server={"stream_window": 2}) as served:
        holds = Holds(served.engine)
        stream = open_stream(served)
        for index in range(5):
            await stream.write(item(str(index), index))
        await stream.done_writing()
        assert [await holds.begun.get(), await holds.begun.get()] == [0, 1]
        # The third begins only once an answer has been taken, whatever else happens in between.
        for index in range(5):
            assert holds.begun.empty()
            holds.release(index)
            assert class_of(await stream.read()) == index
            if index < 3:
                assert await holds.begun.get() == index + 2
        assert await stream.read() is grpc.aio.EOF


async def test_a_caller_that_leaves_takes_everything_back(served: Served):
    holds = Holds(served.engine)
    stream = open_stream(served)
    for index in range(3):
        await stream.write(item(str(index), index))
        await holds.begun.get()
    stream.cancel()
    await served.server._admission.wait_idle()
    assert sorted(holds.cancelled) == [0, 1, 2]


async def test_bytes_that_are_no_message_end_the_stream_by_name(served: Served):
    stream = served.channel.stream_stream("/whylight.v1.ExplanationService/StreamExplain")()
    await stream.write(b"\xff\xff")
    failure = await failure_of(stream.read())
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")


async def test_a_stream_ends_with_the_deadline(served: Served):
    holds = Holds(served.engine)
    stream = open_stream(served, timeout=0.3)
    await stream.write(item("a"))
    await holds.begun.get()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await served.server._admission.wait_idle()
    assert holds.cancelled == [0]


async def test_a_draining_server_answers_what_is_open_and_then_ends_the_stream(served: Served):
    holds = Holds(served.engine)
    stream = open_stream(served)
    await stream.write(item("a", 7))
    await holds.begun.get()
    draining = asyncio.ensure_future(served.server.drain(asyncio.Event()))
    await served.server._admission.wait_closed()
    holds.release(7)
    assert class_of(await stream.read()) == 7
    failure = await failure_of(stream.read())
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert await draining is True
