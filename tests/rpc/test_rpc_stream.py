"""StreamExplain: many requests over one call, each with its own fate."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf import duration_pb2
from rpc_serving import FakeEngine, Served, failure_of, request, serving

from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc
from whylight.worker.v1 import worker_pb2


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
    assert refused.WhichOneof("outcome") == "refused", "an error would be taken for the end of the one that is open"
    assert (refused.id, refused.refused.reason, refused.refused.violations[0].field) == ("a", "ID_TAKEN", "id")
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
    stream = open_stream(served, timeout=2)  # time enough for the work to begin
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


def watched(id: str, index: int = 0, **spec) -> v1.StreamExplainRequest:
    sent = item(id, index)
    sent.progress.CopyFrom(v1.ProgressSpec(**spec))
    return sent


def news(done: int, size: int = 0, method: int = 0) -> worker_pb2.ItemProgress:
    maps = [v1.Tensor(data=bytes(size))] if size else []
    return worker_pb2.ItemProgress(item_id=1, method_index=method, done=done, total=9, maps=maps)


async def test_progress_is_told_in_the_words_of_the_request_and_never_after_the_answer(served: Served):
    served.engine.hold.clear()
    stream = open_stream(served)
    sent = watched("a", running_maps=True)
    sent.request.CopyFrom(request(classes=(0, 1, 2), methods=("cam", "saliency")))
    sent.request.inputs[1].ClearField("data")  # refused, so that the engine counts otherwise than the client
    await stream.write(sent)
    work = await served.engine.arrived.get()
    assert work.watch.spec == sent.progress
    work.watch.tell(1, news(3, 8, method=1))
    told = await stream.read()
    assert (told.id, told.progress.input_index, told.progress.method) == ("a", 2, "saliency")
    assert (told.progress.method_index, told.progress.done, told.progress.total) == (1, 3, 9)
    assert len(told.progress.maps[0].data) == 8
    served.engine.hold.set()
    assert (await stream.read()).HasField("response")
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_who_does_not_ask_is_not_watched_and_a_unary_call_never_is(served: Served):
    stream = open_stream(served)
    await stream.write(item("a"))
    assert (await stream.read()).HasField("response")
    await explanation_pb2_grpc.ExplanationServiceStub(served.channel).Explain(request())
    assert [work.watch for work in served.engine.works] == [None, None]


async def test_an_interval_below_0_is_refused(served: Served):
    stream = open_stream(served)
    await stream.write(watched("a", min_interval=duration_pb2.Duration(seconds=-1)))
    refused = await stream.read()
    assert (refused.id, refused.error.violations[0].field) == ("a", "progress.min_interval")


async def test_a_slow_reader_gets_the_newest_progress_and_the_server_keeps_no_more(served: Served):
    """Nobody reads while two thousand reports of 100 KB are made; they would be 200 MB."""
    served.engine.hold.clear()
    stream = open_stream(served)
    await stream.write(watched("a", running_maps=True))
    work = await served.engine.arrived.get()
    for done in range(1, 2001):
        work.watch.tell(0, news(done, 100_000))
        if done % 10 == 0:
            await asyncio.sleep(0)
    told = [(await stream.read()).progress.done]
    while told[-1] < 2000:
        told.append((await stream.read()).progress.done)
    assert told == sorted(told)
    assert len(told) < 100
    work.watch.tell(0, news(2001))
    served.engine.hold.set()
    response = await stream.read()
    if response.HasField("progress"):  # it was on its way before the answer was there
        response = await stream.read()
    assert response.HasField("response")


async def test_many_large_running_maps_are_told_of_without_them(served: Served):
    served.engine.hold.clear()
    stream = open_stream(served)
    sent = watched("a", running_maps=True)
    sent.request.CopyFrom(request(classes=tuple(range(40))))
    await stream.write(sent)
    work = await served.engine.arrived.get()
    for index in range(40):
        work.watch.tell(index, news(1, 2**20))
    sizes = [len((await stream.read()).progress.maps) for _ in range(40)]
    assert sum(sizes) == 31, "the bound is 32 MiB, and each is a little more than 1 MiB"
    served.engine.hold.set()
    assert (await stream.read()).HasField("response")


async def test_progress_that_is_larger_than_an_answer_may_be_is_told_without_maps():
    async with serving(server={"response_bytes": 2**20}) as served:
        served.engine.hold.clear()
        stream = open_stream(served)
        await stream.write(watched("a", running_maps=True))
        work = await served.engine.arrived.get()
        work.watch.tell(0, news(1, 2**20))
        told = (await stream.read()).progress
        assert (told.done, len(told.maps)) == (1, 0)
        served.engine.hold.set()
        assert (await stream.read()).HasField("response")
