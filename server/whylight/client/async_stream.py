"""One asyncio StreamExplain call: requests out in one task, answers in by another; knows not what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from whylight.client.conversation import Conversation, NewsKey
from whylight.client.failures import error_from_call
from whylight.client.requests import Answer, Request
from whylight.errors import WhylightError
from whylight.v1 import explanation_pb2 as pb

Requests = AsyncIterable[Request] | Iterable[Request]


@dataclass(frozen=True)
class _End:
    """No more answers will come; `error` is why, unless all of them came."""

    error: WhylightError | None


async def stream_answers(
    rpc: Callable[..., Any],
    requests: Requests,
    settings: dict[str, Any],
    conversation: Conversation,
    max_in_flight: int,
) -> AsyncGenerator[tuple[str, Answer], None]:
    """Send `requests` by `rpc` and yield ids and answers. See `whylight.AsyncClient.stream`."""
    stream = _Stream(requests, conversation, max_in_flight)
    call = rpc(stream.messages(), **settings)
    reader = asyncio.ensure_future(stream.read(call))
    try:
        while not isinstance(outcome := await stream.outcomes.get(), _End):
            if isinstance(outcome, NewsKey):
                conversation.tell(outcome)
                continue
            yield outcome
            stream.slots.release()
        if outcome.error is not None:
            raise outcome.error
        if stream.broken is not None:
            raise stream.broken
    finally:
        call.cancel()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


class _Stream:
    def __init__(self, requests: Requests, conversation: Conversation, max_in_flight: int) -> None:
        self.outcomes: asyncio.Queue[tuple[str, Answer] | NewsKey | _End] = asyncio.Queue()
        self.slots = asyncio.Semaphore(max_in_flight)
        self.broken: Exception | None = None
        self._requests = requests
        self._conversation = conversation

    async def messages(self) -> AsyncIterator[pb.StreamExplainRequest]:
        """Yield the messages to send, in gRPC's task. An exception here would end the call without a word."""
        try:
            await self.slots.acquire()
            async for request in _each(self._requests):
                name, message = await asyncio.to_thread(self._conversation.begin, request)  # reads files
                if isinstance(message, WhylightError):
                    self.outcomes.put_nowait((name, message))
                else:
                    yield message
                await self.slots.acquire()
        except Exception as error:
            self.broken = error

    async def read(self, call: Any) -> None:
        """Read the answers, in a task of their own: what cannot be sent has an answer that no server sends."""
        error: WhylightError | None = None
        try:
            async for response in call:
                if (outcome := self._conversation.take(response)) is not None:
                    self.outcomes.put_nowait(outcome)
        except grpc.RpcError as failure:
            error = error_from_call(failure)
        except WhylightError as unreadable:
            error = unreadable
        self.outcomes.put_nowait(_End(error))


async def _each(requests: Requests) -> AsyncIterator[Request]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
