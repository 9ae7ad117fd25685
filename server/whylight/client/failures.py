"""Turns what gRPC raises into whylight's errors; knows nothing of which call failed."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from whylight.errors import Violation, WhylightError
from whylight.wire.errors import make_error
from whylight.wire.scalars import duration_to_seconds


def error_from_call(error: grpc.RpcError) -> WhylightError:
    """Return the typed error of a failed call, blocking or asyncio.

    A server of ours says all of it in the details of a google.rpc.Status. A status without details is gRPC's own, or of
    something between here and there: its reason is then the name of the code, such as ``UNAVAILABLE``.
    """
    call: Any = error
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    status = _status(call)
    for detail in status.details if status else ():
        for kind in (info, bad_request, retry):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
    code: grpc.StatusCode = call.code()
    return make_error(
        code.value[0],
        call.details() or code.name,
        reason=info.reason or code.name,
        violations=[Violation(violation.field, violation.description) for violation in bad_request.field_violations],
        retry_after=duration_to_seconds(retry.retry_delay) if retry.HasField("retry_delay") else None,
        metadata=info.metadata,
    )


def _status(call: Any) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(call)
    except (ValueError, DecodeError):  # something on the way rewrote the status: the plain one is still true
        return None
