"""Half-sent messages, answers that nobody reads, and bombs, by a client that speaks HTTP/2 by hand on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import psutil
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpc_serving import Served, failure_of, request, serving
from virtual_loop import VirtualLoop

from whylight.errors import WhylightError
from whylight.rpc import bounded
from whylight.rpc.bounded import COMPRESSION_IS_SAFE
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc

EXPLAIN = "/whylight.v1.ExplanationService/Explain"
STREAM = "/whylight.v1.ExplanationService/StreamExplain"
HEALTH = "/grpc.health.v1.Health/Check"
MESSAGE = 2**20
PATIENCE = 120.0
"""Seconds that a server on a busy machine gets for what it is to do."""


class Rude:
    """A client that sends as much of a message as the server lets it, and no more. Used from a thread."""

    def __init__(self, address: str, *, window: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 20)
        self.socket.settimeout(0.1)
        self._authority = address
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http.initiate_connection()
        if window is not None:
            self._http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._flush()
        self.closed = False
        self.sent = 0
        self.statuses: dict[int, dict[str, str]] = {}
        self.reset: set[int] = set()

    def begin(self, path: str, *headers: tuple[str, str]) -> int:
        stream = self._http.get_next_available_stream_id()
        known = {":method": "POST", ":scheme": "http", ":path": path, ":authority": self._authority}
        self._http.send_headers(
            stream, [*known.items(), ("content-type", "application/grpc"), ("te", "trailers"), *headers]
        )
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False, patience: float = PATIENCE) -> bool:
        """Send, and return whether the server let all of it through; it has so many seconds to take another piece."""
        place, until = 0, time.monotonic() + patience
        while place < len(data) and stream not in self.reset and not self.closed:
            size = min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size, 16384)
            if size > 0:
                piece = data[place : place + size]
                self._http.send_data(stream, piece, end_stream=end and place + len(piece) == len(data))
                place += len(piece)
                self.sent += len(piece)
                self._flush()
                until = time.monotonic() + patience
            elif not self.receive() and time.monotonic() > until:
                return False
        return place == len(data)

    def receive(self) -> bool:
        """Take what there is, and return whether there was anything."""
        try:
            data = self.socket.recv(2**16)
        except TimeoutError:
            return False
        if not data:
            self.closed = True
            return False
        for event in self._http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self.statuses.setdefault(event.stream_id, {}).update(event.headers)
            if isinstance(event, h2.events.StreamReset):
                self.reset.add(event.stream_id)
        self._flush()
        return True

    def wait_for(self, stream: int) -> str:
        """Return the status of a call, or "reset" when it was broken off."""
        end = time.monotonic() + PATIENCE
        while "grpc-status" not in self.statuses.get(stream, {}):
            if stream in self.reset:
                return "reset"
            assert not self.closed, f"no end of {stream}: {self.statuses}"
            assert time.monotonic() < end, f"no end of {stream}: {self.statuses}"
            self.receive()
        return self.statuses[stream]["grpc-status"]

    def close(self) -> None:
        self.socket.close()

    def _flush(self) -> None:
        self.socket.sendall(self._http.data_to_send())


@contextlib.contextmanager
def rude(served: Served, **settings) -> Iterator[Rude]:
    client = Rude(served.address, **settings)
    try:
        yield client
    finally:
        client.close()


def half(size: int, sent: int) -> bytes:
    """The beginning of a message of `size` bytes."""
    return b"\0" + size.to_bytes(4, "big") + b"\1" * (sent - 5)


def in_thread(work: Callable, *arguments) -> asyncio.Future:
    return asyncio.get_running_loop().run_in_executor(None, work, *arguments)


def explain(served: Served):
    return explanation_pb2_grpc.ExplanationServiceStub(served.channel).Explain


LIMITS = {"message_bytes": MESSAGE}


async def test_only_so_many_messages_are_half_received_and_the_others_stay_at_the_client():
    """Twenty calls each send as much of a mebibyte as they are let: the first three all, the others about a window."""
    async with serving(limits=LIMITS, server={"receive_bytes": 3 * MESSAGE}) as served:
        with rude(served) as client:

            def flood() -> list[int]:
                sent = []
                for number in range(20):
                    stream, before = client.begin(EXPLAIN), client.sent
                    client.send(stream, half(MESSAGE, MESSAGE - 1), patience=PATIENCE if number < 3 else 0.1)
                    sent.append(client.sent - before)
                return sent

            sent = await in_thread(flood)
        assert sent[:3] == [MESSAGE - 1] * 3
        assert max(sent[3:]) <= 2**17, "what is not read is not taken"
        assert (await explain(served)(request())).results, "they are gone, and their places are free again"


async def test_a_message_that_does_not_come_is_cut_off_and_those_who_wait_are_let_in(monkeypatch: pytest.MonkeyPatch):
    """Only the rude one's time is short: the machine may take any time over the others' messages."""
    within, times = bounded._within, iter([1.0])
    monkeypatch.setattr(bounded, "_within", lambda seconds, work: within(next(times, seconds), work))
    async with serving(limits=LIMITS, server={"receive_bytes": MESSAGE}) as served:
        with rude(served) as client:
            stream = client.begin(EXPLAIN)
            await in_thread(client.send, stream, half(MESSAGE, 1000))
            assert (await explain(served)(request(), timeout=PATIENCE)).results
            assert await in_thread(client.wait_for, stream) == "4", "DEADLINE_EXCEEDED"


async def test_nobody_waits_for_ever_for_others_to_send(monkeypatch: pytest.MonkeyPatch):
    """The place is taken as long as the test likes, so that it is whoever waits whose time runs out."""
    taken, within = asyncio.Event(), bounded._within

    async def held(seconds: float, work: Awaitable[Any]) -> Any:
        taken.set()
        return await within(1000 * seconds, work)

    monkeypatch.setattr(bounded, "_within", held)
    async with serving(limits=LIMITS, server={"receive_bytes": MESSAGE, "receive_seconds": 0.25}) as served:
        with rude(served) as client:
            await in_thread(lambda: client.send(client.begin(EXPLAIN), half(MESSAGE, 1000)))
            await asyncio.wait_for(taken.wait(), PATIENCE)
            failure = await failure_of(explain(served)(request(), timeout=PATIENCE))
            assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RECEIVING_FULL")
            assert failure.retry_seconds


def test_each_is_let_in_in_turn_held_to_its_time_and_refused_after_twice_that():
    """One place, half a second each, in virtual time: what becomes of whom, and when."""
    fates: dict[str, tuple[float, str]] = {}

    async def come(intake: bounded.Intake, name: str, after: float, slow: bool) -> None:
        async def messages() -> AsyncIterator[str]:
            if slow:
                await asyncio.Event().wait()
            yield "message"

        await asyncio.sleep(after)
        try:
            fate = await intake.receive(messages())
        except WhylightError as error:
            fate = error.reason
        fates[name] = (round(asyncio.get_running_loop().time(), 6), fate)

    async def all_come() -> None:
        intake = bounded.Intake(places=1, seconds=0.5, most_waiting=4)
        slow = [come(intake, name, after, True) for name, after in zip("abcde", (0.0, 0.1, 0.2, 0.3, 0.4), strict=True)]
        await asyncio.gather(*slow, come(intake, "one too many", 0.45, False), come(intake, "prompt", 0.6, False))

    loop = VirtualLoop()
    try:
        loop.run_until_complete(all_come())
    finally:
        loop.close()
    assert fates == {
        "a": (0.5, "MESSAGE_LATE"),
        "b": (1.0, "MESSAGE_LATE"),
        "c": (1.5, "MESSAGE_LATE"),  # let in at 1.0, before it had waited for a second
        "d": (1.3, "RECEIVING_FULL"),
        "e": (1.4, "RECEIVING_FULL"),
        "one too many": (0.45, "RECEIVING_FULL"),  # b, c, d and e wait
        "prompt": (1.5, "message"),
    }


async def test_who_needs_no_token_takes_no_place_of_the_others():
    async with serving(limits=LIMITS, server={"receive_bytes": MESSAGE}) as served:
        with rude(served) as client:

            def hold() -> None:
                for _ in range(30):
                    client.send(client.begin(HEALTH), half(MESSAGE, 1000))

            await in_thread(hold)
            assert (await explain(served)(request(), timeout=PATIENCE)).results


async def test_strangers_leave_room_for_the_calls_of_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounded, "FREE_STREAMS", 3)
    monkeypatch.setattr(bounded, "FREE_WAITING", 2)
    monkeypatch.setattr(bounded, "FREE_SECONDS", 2 * PATIENCE)  # none of those who are read is to be cut off meanwhile
    async with serving(limits=LIMITS, server={"calls": 16}) as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for watch in watches:
            await watch.read()
        failure = await failure_of(health.Watch(health_pb2.HealthCheckRequest()).read())
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
        watches[0].cancel()
        with rude(served) as client:

            def hold() -> None:
                for _ in range(bounded.FREE_PLACES + 20):
                    client.send(client.begin(HEALTH), half(MESSAGE, 1000))
                end = time.monotonic() + PATIENCE
                while len(client.statuses) < 18 and time.monotonic() < end:
                    client.receive()

            await in_thread(hold)
            assert len(client.statuses) == 18, "8 are read and 2 wait"
            assert (await explain(served)(request(), timeout=PATIENCE)).results
        for watch in watches:
            watch.cancel()


async def test_only_so_many_streams_are_open():
    async with serving(server={"streams": 2}) as served:
        stub = explanation_pb2_grpc.ExplanationServiceStub(served.channel)
        streams = [stub.StreamExplain() for _ in range(2)]
        for stream in streams:
            await stream.write(v1.StreamExplainRequest(id="1", request=request()))
            assert (await stream.read()).id == "1"
        failure = await failure_of(stub.StreamExplain().read())
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
        await streams[0].done_writing()
        assert await streams[0].read() is grpc.aio.EOF
        again = stub.StreamExplain()
        await again.write(v1.StreamExplainRequest(id="1", request=request()))
        assert (await again.read()).id == "1"
        again.cancel()
        streams[1].cancel()


async def test_only_so_many_connections_are_open():
    async with serving(server={"connections": 3}) as served:

        def open_many() -> int:
            clients, served_ones = [], 0
            try:
                for _ in range(8):
                    client = Rude(served.address)
                    clients.append(client)
                    with contextlib.suppress(OSError):
                        served_ones += client.receive()
                return served_ones
            finally:
                for client in clients:
                    client.close()

        assert await in_thread(open_many) <= 3


async def test_only_so_many_calls_are_open():
    async with serving(server={"calls": 3}) as served:
        served.engine.hold.clear()
        held = [explain(served)(request()) for _ in range(3)]
        for _ in held:
            await served.engine.arrived.get()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await explain(served)(request())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        served.engine.hold.set()
        await asyncio.gather(*held)


ANSWER = 3 * 2**20


def large(work) -> list[v1.InputResult]:
    explanation = v1.Explanation(method="grad-cam")
    explanation.artifacts.add().tensor.data = b"\1" * ANSWER
    return [v1.InputResult(explained=v1.Explained(explanations=[explanation])) for _ in work.inputs]


def framed(message: Message) -> bytes:
    data = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


ROOM = {"response_bytes": 5 * 2**20, "answer_bytes": 40 * 2**20}


async def test_answers_that_nobody_reads_are_bounded():
    """150 calls would leave 450 MiB of answers with clients that read none; each connection has room for three."""
    async with serving(server=ROOM) as served:
        served.engine.answer = large
        memory = psutil.Process()
        with rude(served, window=0) as first, rude(served, window=0) as second, rude(served, window=0) as third:

            def ask(client: Rude, refused: int) -> Counter[str]:
                streams = [client.begin(EXPLAIN) for _ in range(30)]
                for stream in streams:
                    client.send(stream, framed(request()), end=True)
                told: Counter[str] = Counter()
                end = time.monotonic() + PATIENCE
                while told["8"] < refused and time.monotonic() < end:
                    client.receive()
                    told = Counter(client.statuses.get(stream, {}).get("grpc-status", "waits") for stream in streams)
                return told

            before = memory.memory_info().rss
            for client in (first, second, third):
                assert await in_thread(ask, client, 27) == {"waits": 3, "8": 27}, "8 is RESOURCE_EXHAUSTED"
                assert (await explain(served)(request(), timeout=PATIENCE)).results, "others are served"
            assert memory.memory_info().rss - before < 100 * 2**20
            with rude(served, window=0) as fourth, rude(served, window=0) as fifth:
                assert await in_thread(ask, fourth, 27) == {"waits": 3, "8": 27}
                assert await in_thread(ask, fifth, 29) == {"waits": 1, "8": 29}, "there is no more for anybody"
                failure = await failure_of(explain(served)(request()))
                assert (failure.reason, failure.code) == ("ANSWERS_WAITING", grpc.StatusCode.RESOURCE_EXHAUSTED)
        end = time.monotonic() + PATIENCE
        while True:  # who hangs up gives back what it held
            try:
                assert (await explain(served)(request(), timeout=PATIENCE)).results
                break
            except grpc.aio.AioRpcError:
                assert time.monotonic() < end, "there never was room again"
                await asyncio.sleep(0.05)


async def test_a_stream_that_is_not_read_holds_one_answer_and_no_more():
    """Its other answers wait in the stream's own window; nobody else is kept waiting."""
    async with serving(server={**ROOM, "stream_window": 3}) as served:
        served.engine.answer = large
        with rude(served, window=0) as client:

            def ask() -> None:
                stream = client.begin(STREAM)
                for number in range(40):
                    client.send(stream, framed(v1.StreamExplainRequest(id=str(number), request=request())))

            await in_thread(ask)
            for _ in range(3):
                await served.engine.arrived.get()
            assert (await explain(served)(request(), timeout=PATIENCE)).results
            assert len(served.engine.works) == 3 + 1


async def test_a_gzip_bomb_is_refused_without_being_blown_up():
    bomb = gzip.compress(bytes(2**20), 9) * 1024  # members one after the other: a gibibyte in a megabyte
    compressed = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    async with serving() as served:
        memory, peak, done = psutil.Process(), [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                peak[0] = max(peak[0], memory.memory_info().rss)

        before = memory.memory_info().rss
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with rude(served) as client:
                stream = client.begin(EXPLAIN, ("grpc-encoding", "gzip"))
                await in_thread(lambda: client.send(stream, compressed, end=True))
                assert await in_thread(client.wait_for, stream) in {"8", "12", "13"}
        finally:
            done.set()
            watcher.join()
        assert peak[0] - before < 300 * 2**20
        assert (await explain(served)(request())).results


async def test_a_compressed_request_of_an_honest_client_is_either_read_or_refused_by_name(served: Served):
    if COMPRESSION_IS_SAFE:
        assert (await explain(served)(request(), compression=grpc.Compression.Gzip)).results
    else:
        with pytest.raises(grpc.aio.AioRpcError, match="disabled"):
            await explain(served)(request(), compression=grpc.Compression.Gzip)
