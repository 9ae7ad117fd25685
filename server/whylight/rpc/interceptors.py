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
from whylight.rpc.context import Context
from whylight.rpc.errors import internal_error, to_trailers
from whylight.rpc.request_id import REQUEST_ID_KEY, begin_request

log = logging.getLogger(__name__)


class Guard(grpc.aio.ServerInterceptor):
    """The outermost layer: gives each call an id, and turns every exception into a status that tells no secrets.

    A WhylightError becomes its status. Anything else is a fault of ours: the log gets all of it, the client an id by
    which to find it there.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call, if there is one."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        parse = handler.request_deserializer or bytes
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _guard_unary(handler.unary_unary, method, parse), None, handler.response_serializer
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _guard_stream(handler.unary_stream, method, lambda request: _parse(parse, request)),
                None,
                handler.response_serializer,
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                _guard_stream(handler.stream_stream, method, lambda requests: _parse_each(parse, requests)),
                None,
                handler.response_serializer,
            )
        raise TypeError(f"{method}: no service of ours takes a stream and answers once")


def _guard_unary(handle: Any, method: str, parse: Callable[[bytes], Any]) -> Any:
    async def guarded(request: bytes, context: Context) -> Any:
        async with _guarded(method, context):
            return await handle(_parse(parse, request), context)

    return guarded


def _guard_stream(handle: Any, method: str, parse: Callable[[Any], Any]) -> Any:
    """Guard a handler that is an async generator.

    The result writes by itself, in place of being a generator too: so a call that ends early unwinds the handler at
    once, and not when the garbage collector finds it.
    """

    async def guarded(request: Any, context: Context) -> None:
        async with _guarded(method, context), contextlib.aclosing(handle(parse(request), context)) as responses:
            async for response in responses:
                try:
                    await context.write(response)
                except grpc.aio.InternalError:  # grpc.aio's way to say that the client went away while we wrote
                    log.debug("%s: the client is gone", method)
                    return

    return guarded


@contextlib.asynccontextmanager
async def _guarded(method: str, context: Context) -> AsyncIterator[None]:
    request_id = begin_request(context.invocation_metadata())
    context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
    try:
        yield
    except (grpc.aio.AbortError, asyncio.CancelledError):
        raise
    except WhylightError as error:
        log.debug("%s: %s %s: %s", method, error.code.name, error.reason, error.message)
        await _abort(context, request_id, error)
    except Exception:
        log.exception("%s: an error that nothing expects", method)
        await _abort(context, request_id, internal_error())


async def _abort(context: Context, request_id: str, error: WhylightError) -> None:
    code, message, trailers = to_trailers(error)
    await context.abort(code, message, (*trailers, (REQUEST_ID_KEY, request_id)))


def _parse(parse: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return parse(request)
    except DecodeError:
        raise InvalidInput("the bytes are no message of the kind that this call takes") from None


async def _parse_each(parse: Callable[[bytes], Any], requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _parse(parse, request)
