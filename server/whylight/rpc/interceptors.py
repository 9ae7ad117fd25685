"""What is around every call: its id, the log line of a fault, and errors as statuses; knows no service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from whylight.errors import InvalidInput, WhylightError
from whylight.rpc.context import Context, note_peer
from whylight.rpc.errors import internal_error, to_trailers
from whylight.rpc.request_id import REQUEST_ID_KEY, begin_request
from whylight.rpc.rpcs import UNKNOWN_RPC, Rpcs
from whylight.telemetry.calls import CANCELLED, INTERNAL, OK, Call, Observer, Rpc

log = logging.getLogger(__name__)

ON_ITS_WAY = 0.5
"""Seconds that a deadline may seem to lie ahead here when it is over at the client, who breaks the call off: its clock
began earlier, by what the call took to arrive."""


class Guard(grpc.aio.ServerInterceptor):
    """The outermost layer: gives each call an id, and turns every exception into a status that tells no secrets.

    A WhylightError becomes its status. Anything else is a fault of ours: the log gets all of it, the client an id by
    which to find it there. `observer` is told of every call and of its one end.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer
        self._rpcs = Rpcs()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call, if there is one."""
        handler = await continuation(handler_call_details)
        if handler is None:
            self._count_unknown(handler_call_details)
            return handler
        method = handler_call_details.method
        wrap = _Wrap(self._observer, self._rpcs.rpc(method, handler), handler)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(wrap.once(handler.unary_unary, wrap.parse), None, wrap.serialise)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                wrap.once(handler.stream_unary, wrap.parse_each), None, wrap.serialise
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                wrap.stream(handler.unary_stream, wrap.parse), None, wrap.serialise
            )
        return grpc.stream_stream_rpc_method_handler(
            wrap.stream(handler.stream_stream, wrap.parse_each), None, wrap.serialise
        )

    def _count_unknown(self, details: grpc.HandlerCallDetails) -> None:
        """Tell of a call that nobody serves, whose name may be anything: gRPC answers it without us."""
        if self._observer is not None:
            call = Call(self._observer, UNKNOWN_RPC, begin_request(details.invocation_metadata))
            call.begin(())
            call.end(grpc.StatusCode.UNIMPLEMENTED.name)


class _Wrap:
    """What is put around the handler of one call."""

    def __init__(self, observer: Observer | None, rpc: Rpc, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
        self._observer = observer
        self._rpc = rpc
        self._parse = handler.request_deserializer or bytes
        self._serialise = handler.response_serializer

    def once(self, handle: Any, parse: Callable[[Any, Context], Any]) -> Any:
        """Guard a handler that answers once."""

        async def guarded(request: Any, context: Context) -> Any:
            async with self._guarded(context):
                return await handle(parse(request, context), context)

        return guarded

    def stream(self, handle: Any, parse: Callable[[Any, Context], Any]) -> Any:
        """Guard a handler that is an async generator.

        The result writes by itself, in place of being a generator too: so a call that ends early unwinds the handler at
        once, and not when the garbage collector finds it.
        """

        async def guarded(request: Any, context: Context) -> None:
            async with (
                self._guarded(context) as call,
                contextlib.aclosing(handle(parse(request, context), context)) as responses,
            ):
                async for response in responses:
                    try:
                        await context.write(response)
                    except grpc.aio.InternalError:  # grpc.aio's way to say that the client went away while we wrote
                        log.debug("%s: the client is gone", self._rpc.full_name)
                        if call is not None:
                            call.end(CANCELLED, CANCELLED)
                        return

        return guarded

    def parse(self, request: bytes, context: Context) -> Any:
        """Read a message.

        Raises:
            InvalidInput: it is none.
        """
        if self._observer is not None:
            self._observer.message_received(self._rpc, len(request))
        try:
            return self._parse(request)
        except DecodeError:
            raise InvalidInput("the bytes are no message of the kind that this call takes") from None

    def parse_each(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        """Read messages as they come, of `context`, from which gRPC's own iterator has them too."""
        return _Messages(self.parse, context)

    def serialise(self, response: Any) -> bytes:
        """Write a message."""
        data: bytes = response if self._serialise is None else self._serialise(response)
        if self._observer is not None:
            self._observer.message_sent(self._rpc, len(data))
        return data

    @contextlib.asynccontextmanager
    async def _guarded(self, context: Context) -> AsyncIterator[Call | None]:
        metadata = context.invocation_metadata() or ()
        request_id = begin_request(metadata)
        note_peer(context)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        call = None
        if self._observer is not None:
            call = Call(self._observer, self._rpc, request_id)
            call.begin(metadata)
        try:
            yield call
        except asyncio.CancelledError:
            _end_early(call, context)
            raise
        except grpc.aio.AbortError:
            _end(call, context.code().name, "")
            raise
        except WhylightError as error:
            log.debug("%s: %s %s: %s", self._rpc.full_name, error.code.name, error.reason, error.message)
            _end(call, error.code.name, error.reason)
            await _abort(context, request_id, error)
        except Exception:
            log.exception("%s: an error that nothing expects", self._rpc.full_name)
            _end(call, INTERNAL, INTERNAL)
            await _abort(context, request_id, internal_error())
        else:
            _end(call, OK, "")


class _Messages(AsyncIterator[Any]):
    """The messages of one call. No generator, as gRPC's is: most calls read one message, and would leave it suspended
    for the garbage collector to find, which has the event loop close it in a task of its own."""

    def __init__(self, parse: Callable[[bytes, Context], Any], context: Context) -> None:
        self._parse = parse
        self._context = context

    async def __anext__(self) -> Any:
        request: Any = await self._context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._parse(request, self._context)


def _end(call: Call | None, code: str, reason: str) -> None:
    if call is not None:
        call.end(code, reason)


def _end_early(call: Call | None, context: Context) -> None:
    """End a call that gRPC broke off: its deadline is over, or its client went away."""
    remaining = context.time_remaining()
    late = remaining is not None and remaining <= ON_ITS_WAY
    code = grpc.StatusCode.DEADLINE_EXCEEDED.name if late else CANCELLED
    _end(call, code, code)


async def _abort(context: Context, request_id: str, error: WhylightError) -> None:
    code, message, trailers = to_trailers(error)
    await context.abort(code, message, (*trailers, (REQUEST_ID_KEY, request_id)))
