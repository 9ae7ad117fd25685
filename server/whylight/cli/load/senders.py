"""Calls over gRPC with as little work in the client as there can be: ready-made bytes out, counts of the answer in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from grpc import aio

from whylight.cli.load.spec import Kind
from whylight.cli.load.tally import Execution, Outcome
from whylight.client.connection import Connection
from whylight.client.failures import error_from_call
from whylight.errors import WhylightError
from whylight.v1 import explanation_pb2 as pb
from whylight.wire import error_from_proto
from whylight.wire.scalars import duration_to_seconds

_SERVICE = "/whylight.v1.ExplanationService"


def open_channels(connection: Connection, count: int) -> list[aio.Channel]:
    """Open `count` connections, which gRPC would otherwise make one of. Calls on them are not tried again."""
    settings = [
        *connection.channel_options(),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if connection.credentials is None:
        return [aio.insecure_channel(connection.address, settings) for _ in range(count)]
    return [aio.secure_channel(connection.address, connection.credentials, settings) for _ in range(count)]


class UnarySender:
    """Makes each call an Explain call, on the connections in turns."""

    def __init__(
        self, channels: Sequence[aio.Channel], connection: Connection, kinds: Sequence[Kind], deadline: float
    ) -> None:
        self._rpcs: Iterator[Any] = itertools.cycle(
            [channel.unary_unary(f"{_SERVICE}/Explain") for channel in channels]
        )
        self._requests = [itertools.cycle(kind.requests) for kind in kinds]
        self._connection = connection
        self._deadline = deadline

    async def __call__(self, kind: int) -> Outcome:
        """Send a request of a kind, and wait for its answer."""
        request = next(self._requests[kind])
        try:
            answer = await next(self._rpcs)(
                request, timeout=self._deadline, metadata=tuple(self._connection.metadata())
            )
        except grpc.RpcError as error:
            return _failed(error_from_call(error))
        return _read(pb.ExplainResponse.FromString(answer))

    async def close(self) -> None:
        """There is nothing to end."""


class StreamSender:
    """Sends each call as a request of a StreamExplain call, which stays open; on the open calls in turns."""

    def __init__(
        self, channels: Sequence[aio.Channel], connection: Connection, kinds: Sequence[Kind], deadline: float
    ) -> None:
        requests = [[_framed(request) for request in kind.requests] for kind in kinds]
        self._requests = [itertools.cycle(framed) for framed in requests]
        self._streams = [_Stream(channel, connection, deadline) for channel in channels]
        self._turns = itertools.cycle(self._streams)

    @property
    def twice(self) -> int:
        """How many answers came that nobody waited for: with the id of a call that had ended."""
        return sum(stream.twice for stream in self._streams)

    async def __call__(self, kind: int) -> Outcome:
        """Send a request of a kind, and wait for its answer."""
        return await next(self._turns).send(next(self._requests[kind]))

    async def close(self) -> None:
        """End the open calls."""
        await asyncio.gather(*(stream.close() for stream in self._streams))


class _Stream:
    """One open call. Answers come in any order, each with the id of its request."""

    def __init__(self, channel: aio.Channel, connection: Connection, deadline: float) -> None:
        rpc: Any = channel.stream_stream(f"{_SERVICE}/StreamExplain")
        self._call: Any = rpc(metadata=tuple(connection.metadata()))
        self._deadline = deadline
        self._ids = itertools.count()
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._late: set[str] = set()
        self._writing = asyncio.Lock()  # gRPC takes one message at a time
        self._ended: Outcome | None = None
        self._reading = asyncio.ensure_future(self._read())
        self.twice = 0

    async def send(self, request: bytes) -> Outcome:
        if self._ended is not None:
            return self._ended
        id = str(next(self._ids))
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[id] = future
        message = pb.StreamExplainRequest(id=id).SerializeToString() + request
        try:
            return await asyncio.wait_for(self._sent(message, future), self._deadline)
        except asyncio.TimeoutError:
            self._waiting.pop(id, None)
            self._late.add(id)
            return Outcome("DEADLINE_EXCEEDED of the client")

    async def _sent(self, message: bytes, future: asyncio.Future[Outcome]) -> Outcome:
        try:
            async with self._writing:
                await self._call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the stream has ended: whoever reads it says why
        return await future

    async def _read(self) -> None:
        error: WhylightError | None = None
        try:
            async for data in self._call:
                self._take(pb.StreamExplainResponse.FromString(data))
        except grpc.RpcError as failure:
            error = error_from_call(failure)
        self._ended = _failed(error) if error else Outcome("UNAVAILABLE the stream ended")
        for future in self._waiting.values():
            if not future.done():
                future.set_result(self._ended)

    def _take(self, response: pb.StreamExplainResponse) -> None:
        future = self._waiting.pop(response.id, None)
        if future is None or future.done():
            self.twice += response.id not in self._late
            self._late.discard(response.id)
        elif response.HasField("error"):
            future.set_result(_failed(error_from_proto(response.error)))
        else:
            future.set_result(_read(response.response))

    async def close(self) -> None:
        if self._ended is None:
            await self._call.done_writing()
        await self._reading


def _framed(request: bytes) -> bytes:
    """Return a StreamExplainRequest but for its id: messages that are written one behind the other are one."""
    return pb.StreamExplainRequest(request=pb.ExplainRequest.FromString(request)).SerializeToString()


def _read(response: pb.ExplainResponse) -> Outcome:
    """Return what came of a call; an input of many that failed makes it a failure."""
    for result in response.results:
        if result.HasField("error"):
            return _failed(error_from_proto(result.error))
    executions = [explanation.execution for result in response.results for explanation in result.explained.explanations]
    return Outcome(
        executions=[
            Execution(
                execution.batch_size,
                duration_to_seconds(execution.queue_time),
                duration_to_seconds(execution.compute_time),
            )
            for execution in executions
        ]
    )


def _failed(error: WhylightError) -> Outcome:
    return Outcome(f"{error.code.name} {error.reason}", error.retry_after)
