"""How many bytes of messages may be on their way, in and out, for all calls together; knows neither callers nor work.

gRPC bounds one message, not all of them: without this, each call may have a message half sent, and keep an answer
waiting that it does not read. So a message is only read by who has one of the places for it (`Intake`), and an answer
only given while there is room for it (`Outlet`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator
from typing import Any, TypeAlias

import grpc
import grpc.aio

from whylight.errors import DeadlineExceeded, InvalidInput, Overloaded
from whylight.rpc.context import Context

Serialise: TypeAlias = "Callable[[Any], bytes]"

FREE_PLACES = 8
"""Messages of calls that need no token that are read at once: theirs are tiny, but anybody may make them."""

FREE_SECONDS = 5.0
"""How long one of those may take to come."""

FREE_WAITING = 256
"""Calls that need no token that may wait for those places; more are refused at once."""

FREE_STREAMS = 256
"""Watches of health that may be open: they need no token and last for ever, and each takes one of `server.calls`."""

RETRY_SECONDS = 1.0
"""When a caller that found no place should come again."""

UNREAD_BYTES = 64 * 2**10
"""About how much of a message that nobody reads yet gRPC takes from the connection."""

COMPRESSION_IS_SAFE = tuple(map(int, grpc.__version__.split(".")[:2])) >= (1, 84)
"""Whether gRPC stops to decompress a message at its largest size: before 1.84, a megabyte of it took a gibibyte."""

BOUND_OPTIONS = (
    # What is not read yet stays at the client: gRPC would otherwise widen the window to megabytes for every call.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
    # gRPC would count calls that have ended and are not freed yet as open, and refuse the next ones of a connection
    # that keeps to the limit it was told: with an HTTP/2 code, for which there are no details, and which clients do not
    # always try again. What a client opens and resets at once is bounded by the calls that may be open and pending.
    ("grpc.http.overload_protection", 0),
    *(() if COMPRESSION_IS_SAFE else (("grpc.compression_enabled_algorithms_bitset", 1),)),
)
"""Options of a server, without which the bounds do not hold."""


class Intake:
    """Places for messages that are being received, each for `seconds` at most; who waits twice as long is refused.

    Where `most_waiting` wait already, the next one is refused at once.
    """

    def __init__(self, places: int, seconds: float, most_waiting: float = math.inf) -> None:
        self._places = asyncio.Semaphore(places)
        self._seconds = seconds
        self._most_waiting = most_waiting
        self._waiting = 0

    async def receive(self, requests: AsyncIterator[Any]) -> Any:
        """Return the one message of a call, which is not read from the connection before there is a place for it.

        Raises:
            Overloaded: others took too long, or too many wait.
            DeadlineExceeded: it did not come.
            InvalidInput: the client sent none.
        """
        if self._places.locked():
            if self._waiting >= self._most_waiting:
                raise _receiving_full()
            self._waiting += 1
            try:
                await asyncio.wait_for(self._places.acquire(), 2 * self._seconds)
            except asyncio.TimeoutError:
                raise _receiving_full() from None
            finally:
                self._waiting -= 1
        else:
            await self._places.acquire()
        try:
            return await _within(self._seconds, anext(requests))
        except asyncio.TimeoutError:
            raise DeadlineExceeded(
                f"the message has not come within {self._seconds:g} seconds", reason="MESSAGE_LATE"
            ) from None
        except StopAsyncIteration:
            raise InvalidInput("the call has no message") from None
        except grpc.aio.BaseError:  # the server has stopped meanwhile: there is nobody left to answer
            raise asyncio.CancelledError from None
        finally:
            self._places.release()


class Outlet:
    """Room for answers that wait until their readers take them; one connection gets a quarter of it, or one answer.

    Nobody who does not read can be cut off, short of the connection: gRPC offers no way. So an answer is refused where
    there is no room, and who hangs up or reads gives its room back.
    """

    def __init__(self, size: int, answer_size: int) -> None:
        self._left = size
        self._share = max(size // 4, answer_size)
        self._held: Counter[str] = Counter()

    def keep(self, size: int, peer: str) -> None:
        """Keep room for an answer to a connection until the current task ends, which sends it.

        Raises:
            Overloaded: there is none.
        """
        self.take(size, peer)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self.give_back(size, peer))

    def take(self, size: int, peer: str) -> None:
        """Keep room for an answer to a connection, until it is given back.

        Raises:
            Overloaded: there is none.
        """
        if size > self._left or self._held[peer] + size > self._share:
            whose = "of this connection" if size <= self._left else "of all connections"
            raise Overloaded(
                f"there is no room for an answer of {size} bytes: those {whose} wait until their readers take them",
                reason="ANSWERS_WAITING",
                retry_after=RETRY_SECONDS,
            )
        self._left -= size
        self._held[peer] += size

    def give_back(self, size: int, peer: str) -> None:
        """Give back what was taken."""
        self._left += size
        self._held[peer] -= size
        if not self._held[peer]:
            del self._held[peer]


class Streams:
    """How many calls of a kind may be open: those that send one message after the other, or the watches of strangers.

    Each of the first may have a message half sent at any time.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._most = most

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Count one while it is open.

        Raises:
            Overloaded: there are too many.
        """
        if not self._left:
            raise Overloaded(
                f"{self._most} streams are open, and no more may be",
                reason="TOO_MANY_STREAMS",
                retry_after=RETRY_SECONDS,
            )
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1


class Bounded(grpc.aio.ServerInterceptor):
    """Holds calls to the bounds. Comes within `Guard` and within `Authentication`: a stranger waits for nothing.

    Every call becomes one of streams, of which nothing is read before it is asked for. `free` names the calls that need
    no token; they have places of their own, so that nobody without a token can take those of the others, and no more of
    them are open than leave room for the others' calls.
    """

    def __init__(self, intake: Intake, streams: Streams, outlet: Outlet, free: Collection[str] = ()) -> None:
        self._intake = intake
        self._streams = streams
        self._outlet = outlet
        self._free = free
        self._free_intake = Intake(FREE_PLACES, FREE_SECONDS, FREE_WAITING)
        self._free_streams = Streams(FREE_STREAMS)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call, if there is one."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        parse, serialise = handler.request_deserializer, handler.response_serializer or bytes
        free = handler_call_details.method in self._free
        intake = self._free_intake if free else self._intake
        if handler.unary_unary:
            answer = self._answer(handler.unary_unary, serialise, intake)
            return grpc.stream_unary_rpc_method_handler(answer, parse)
        if handler.unary_stream:
            answers = self._answers(handler.unary_stream, serialise, intake, self._free_streams if free else None)
            return grpc.stream_stream_rpc_method_handler(answers, parse)
        return grpc.stream_stream_rpc_method_handler(self._stream(handler.stream_stream, serialise), parse)

    def _answer(self, handle: Any, serialise: Serialise, intake: Intake) -> Any:
        async def bounded(requests: AsyncIterator[Any], context: Context) -> bytes:
            data = serialise(await handle(await intake.receive(requests), context))
            try:
                self._outlet.keep(len(data), context.peer())
            except Overloaded:
                del data  # the error's traceback would keep it until the client has the error
                raise
            return data

        return bounded

    def _answers(self, handle: Any, serialise: Serialise, intake: Intake, streams: Streams | None) -> Any:
        async def bounded(requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[bytes, None]:
            request = await intake.receive(requests)
            with contextlib.nullcontext() if streams is None else streams.open():
                async with contextlib.aclosing(self._sent(handle(request, context), serialise, context)) as answers:
                    async for data in answers:
                        yield data

        return bounded

    def _stream(self, handle: Any, serialise: Serialise) -> Any:
        async def bounded(requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[bytes, None]:
            sending = self._sent(handle(requests, context), serialise, context)
            with self._streams.open():
                async with contextlib.aclosing(sending) as answers:
                    async for data in answers:
                        yield data

        return bounded

    async def _sent(self, responses: Any, serialise: Serialise, context: Context) -> AsyncGenerator[bytes, None]:
        """Yield answers as bytes; each has been sent when the next is asked for."""
        async with contextlib.aclosing(responses):
            async for response in responses:
                data, response = serialise(response), None
                size = len(data)
                try:
                    self._outlet.take(size, context.peer())
                except Overloaded:
                    del data  # as above
                    raise
                try:
                    yield data
                finally:
                    self._outlet.give_back(size, context.peer())


def refusal(error: Exception) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler that fails without reading: to gRPC, one of streams is that, whatever the client sends."""

    async def refuse(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        yield _fail(error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _receiving_full() -> Overloaded:
    return Overloaded("other callers take too long to send", reason="RECEIVING_FULL", retry_after=RETRY_SECONDS)


def _fail(error: Exception) -> bytes:
    """Raise. A handler of streams is a generator, and yields, or seems to."""
    raise error


async def _within(seconds: float, work: Awaitable[Any]) -> Any:
    """Await `work` in this task, unlike `asyncio.wait_for`, which begins one for every call.

    Raises:
        asyncio.TimeoutError: it takes longer.
    """
    task = asyncio.current_task()
    assert task is not None
    late = False

    def end() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, end)
    try:
        return await work
    except asyncio.CancelledError:
        if not late:
            raise
        if sys.version_info >= (3, 11):
            task.uncancel()
        raise asyncio.TimeoutError from None
    finally:
        timer.cancel()
