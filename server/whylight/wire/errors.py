"""Errors inside an answer, as messages and as exceptions; knows nothing of gRPC statuses, which fail whole calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from whylight.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    MethodFailed,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unsupported,
    Violation,
    WhylightError,
)
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import duration_to_seconds, seconds_to_duration

_KINDS: dict[int, type[WhylightError]] = {
    kind.code.value: kind
    for kind in (
        Cancelled,
        InvalidInput,
        DeadlineExceeded,
        NotFound,
        Overloaded,
        Unsupported,
        InternalError,
        Unavailable,
        PermissionDenied,
        Unauthenticated,
    )
}


def make_error(
    code: int,
    message: str,
    *,
    reason: str = "",
    violations: Iterable[Violation] = (),
    retry_after: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> WhylightError:
    """Return the typed exception for a code of google.rpc.Code and a reason; a WhylightError for a code not ours."""
    kind = MethodFailed if reason == MethodFailed.default_reason else _KINDS.get(code, WhylightError)
    return kind(message, reason=reason, violations=violations, retry_after=retry_after, metadata=metadata)


def error_to_proto(error: WhylightError) -> pb.Error:
    """Return an exception as a message."""
    return pb.Error(
        code=error.code.value,
        reason=error.reason,
        message=error.message,
        violations=[
            pb.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ],
        retry_delay=None if error.retry_after is None else seconds_to_duration(error.retry_after),
        metadata=error.metadata,
    )


def error_from_proto(message: pb.Error) -> WhylightError:
    """Return a message as the exception that it was."""
    return make_error(
        message.code,
        message.message,
        reason=message.reason,
        violations=[Violation(violation.field, violation.description) for violation in message.violations],
        retry_after=duration_to_seconds(message.retry_delay) if message.HasField("retry_delay") else None,
        metadata=message.metadata,
    )
