"""One StreamExplain call: many requests at once over one connection; knows nothing of how one is answered.

The stream takes a request only while fewer than its window are open, and a request is open until its answer has been
handed to the transport. So neither a fast writer nor a slow reader makes the server hold more than a window of either.
Of an input's progress only the newest waits for a slow reader, without its maps when many of them wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from whylight.errors import InvalidInput, WhylightError
from whylight.latest import Latest
from whylight.rpc.admission import Admission, draining_error
from whylight.rpc.errors import internal_error
from whylight.rpc.explaining import Listener
from whylight.telemetry.calls import refused_request, streamed_request
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import error_to_proto

log = logging.getLogger(__name__)

RUNNING_MAPS_BYTES = 32 * 2**20
"""About how many bytes of progress may wait for the reader of one stream. What is above it is told without maps."""


class Answering(Protocol):
    """What answers one request."""

    async def explain(
        self, request: v1.ExplainRequest, deadline: float | None, listener: Listener | None = None
    ) -> v1.ExplainResponse:
        """Answer a request, or raise why not. Tell the listener of progress until then."""


@dataclass(frozen=True)
class _Answer:
    """An answer to hand out. `closes` tells whether its id is free again then."""

    response: v1.StreamExplainResponse
    closes: bool = True


@dataclass(frozen=True)
class _News:
    """There is progress of an input of a request to hand out, unless the request has its answer by now."""

    key: tuple[str, int]


@dataclass(frozen=True)
class _End:
    """No more requests are read, because of `error` or because there are none."""

    error: Exception | None = None


class Stream:
    """The state of one call."""

    def __init__(self, answering: Answering, admission: Admission, window: int, deadline: float | None) -> None:
        self._answering = answering
        self._admission = admission
        self._window = asyncio.Semaphore(window)
        self._deadline = deadline
        self._open: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news: Latest[tuple[str, int], v1.ExplainProgress] = Latest()
        self._events: asyncio.Queue[_Answer | _News | _End] = asyncio.Queue()

    async def answers(
        self, requests: AsyncIterator[v1.StreamExplainRequest]
    ) -> AsyncGenerator[v1.StreamExplainResponse, None]:
        """Yield the answers as they are ready, until the client has no more requests and all are answered.

        Whoever closes the generator early takes back what is still open.

        Raises:
            InvalidInput: the client sent what is no request at all.
            Unavailable: the server is draining. What was open has been answered before.
        """
        try:
            reading = self._spawn(self._read(requests))
            self._spawn(self._end_when_draining())
            end: _End | None = None
            while end is None or self._open:
                event = await self._events.get()
                if isinstance(event, _News):
                    news = self._news.take(event.key)
                    if news is not None:
                        yield v1.StreamExplainResponse(id=event.key[0], progress=news)
                elif isinstance(event, _Answer):
                    yield event.response
                    if event.closes:
                        self._open.discard(event.response.id)
                    self._window.release()
                elif end is None:
                    end = event
                    reading.cancel()
            if end.error is not None:
                raise end.error
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[v1.StreamExplainRequest]) -> None:
        try:
            while True:
                await self._window.acquire()
                self._begin(await anext(requests))
        except StopAsyncIteration:
            self._events.put_nowait(_End())
        except WhylightError as error:
            self._events.put_nowait(_End(error))

    async def _end_when_draining(self) -> None:
        await self._admission.wait_closed()
        self._events.put_nowait(_End(draining_error()))

    def _begin(self, request: v1.StreamExplainRequest) -> None:
        if request.id in self._open:
            error = InvalidInput("the id is that of a request that is still open", reason="ID_TAKEN", field="id")
            refused_request(error)
            refusal = v1.StreamExplainResponse(id=request.id, refused=error_to_proto(error))
            self._events.put_nowait(_Answer(refusal, closes=False))
            return
        self._open.add(request.id)
        self._spawn(self._answer(request))

    async def _answer(self, request: v1.StreamExplainRequest) -> None:
        try:
            with streamed_request(), self._admission.call():
                answer = await self._answering.explain(request.request, self._deadline, self._listener(request))
            response = v1.StreamExplainResponse(id=request.id, response=answer)
        except WhylightError as error:
            response = _failure(request.id, error)
        except Exception:
            log.exception("an error that nothing expects, in a stream")
            response = _failure(request.id, internal_error())
        self._news.drop(lambda key: key[0] == request.id)
        self._events.put_nowait(_Answer(response))

    def _listener(self, request: v1.StreamExplainRequest) -> Listener | None:
        if not request.HasField("progress"):
            return None

        def tell(news: v1.ExplainProgress) -> None:
            if news.maps and (len(self._news) + 1) * news.ByteSize() > RUNNING_MAPS_BYTES:
                del news.maps[:]
            key = (request.id, news.input_index)
            if self._news.put(key, news):
                self._events.put_nowait(_News(key))

        return Listener(request.progress, tell)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _failure(id: str, error: WhylightError) -> v1.StreamExplainResponse:
    return v1.StreamExplainResponse(id=id, error=error_to_proto(error))
