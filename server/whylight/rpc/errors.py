"""Turns errors into gRPC statuses with google.rpc details; knows nothing of what raised them.

A status travels in HTTP/2 trailers, where a client takes 8 KiB by default and reports RESOURCE_EXHAUSTED in place of
the real error when there is more. So texts are cut, and violations dropped, until a status is below `STATUS_BYTES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from whylight.errors import InternalError, RateLimited, Violation, WhylightError
from whylight.rpc.request_id import current_request_id

DOMAIN = "whylight"
"""Domain of every ErrorInfo."""

STATUS_BYTES = 4096
"""Bytes in a serialised status at most."""

DETAILS_KEY = "grpc-status-details-bin"
"""Name of the trailer that carries the status."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Name of the trailer by which gRPC's own retries (gRFC A6) learn when to come again."""

MESSAGE_BYTES = 600
"""Bytes in a status's message at most: percent-encoded it may be three times as long, and it is sent twice."""

TEXT_BYTES = 320
"""Bytes in any other text of a status at most."""

CODES = {code.value[0]: code for code in grpc.StatusCode}


def to_status(error: WhylightError) -> status_pb2.Status:
    """Return the google.rpc.Status of `error`: an ErrorInfo, and others where they say something."""
    status = status_pb2.Status(code=int(error.code), message=cut(error.message, MESSAGE_BYTES))
    budget = STATUS_BYTES - status.ByteSize()
    for detail in _details(error, budget):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def to_trailers(error: WhylightError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Return `error` as what ``context.abort`` takes: code, message, trailing metadata."""
    status = to_status(error)
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if error.retry_after is not None:
        trailers.append((PUSHBACK_KEY, str(round(max(0.0, error.retry_after) * 1000))))
    return CODES[status.code], status.message, tuple(trailers)


def internal_error() -> InternalError:
    """Return what a caller is told of a fault of ours: where the operator finds it in the log, and nothing else."""
    request_id = current_request_id()
    return InternalError(
        f"an internal error; the server's log has it under {request_id}", metadata={"request_id": request_id}
    )


def cut(text: str, size: int) -> str:
    """Return `text`, cut to `size` bytes of UTF-8 and marked with an ellipsis when it was longer."""
    data = text.encode("utf-8", "replace")
    if len(data) <= size:
        return data.decode("utf-8")
    return data[: size - 3].decode("utf-8", "ignore") + "…"


def _details(error: WhylightError, budget: int) -> Iterator[Message]:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        key, value = cut(key, 63), cut(value, TEXT_BYTES)
        if info.ByteSize() + len(key) + len(value.encode()) > STATUS_BYTES // 4:
            break
        info.metadata[key] = value
    yield info
    budget -= info.ByteSize() + _ANY_BYTES
    if error.retry_after is not None:
        fraction, whole = math.modf(max(0.0, error.retry_after))
        delay = duration_pb2.Duration(seconds=int(whole), nanos=int(fraction * 1e9))
        retry = error_details_pb2.RetryInfo(retry_delay=delay)
        yield retry
        budget -= retry.ByteSize() + _ANY_BYTES
    if isinstance(error, RateLimited):
        quota = error_details_pb2.QuotaFailure()
        caller = error.metadata.get("caller", "")
        quota.violations.add(subject=cut(f"caller:{caller}", TEXT_BYTES), description=cut(error.message, TEXT_BYTES))
        yield quota
        budget -= quota.ByteSize() + _ANY_BYTES
    if error.violations:
        yield _bad_request(error.violations, budget - _ANY_BYTES)


_ANY_BYTES = 80
"""Bytes that packing adds to a detail: the type's URL and the tags and lengths around it, rounded up."""


def _bad_request(violations: tuple[Violation, ...], budget: int) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for violation in violations:
        bad_request.field_violations.add(
            field=cut(violation.field, TEXT_BYTES), description=cut(violation.description, TEXT_BYTES)
        )
        if bad_request.ByteSize() > budget:
            del bad_request.field_violations[-1]
            break
    return bad_request
