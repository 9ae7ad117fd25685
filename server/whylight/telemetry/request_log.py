"""One line of the log for each request and for each call that is none: who asked what, and what came of it.

Names, counts and times only: no options, no inputs, no token, no address.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from whylight.telemetry.calls import Call, Request
from whylight.telemetry.labels import worst
from whylight.telemetry.observers import Deaf

log = logging.getLogger("whylight.requests")

HEALTH = "grpc.health.v1.Health"

_NAME_LENGTH = 64
_UNUSUAL = re.compile(r"[^\w.:@/+-]")


class RequestLog(Deaf):
    """Writes the lines, at INFO; `caller` names who calls, empty for nobody in particular.

    The reason of a request that was answered is that of its worst input, as in the metrics.
    """

    def __init__(self, caller: Callable[[], str] = lambda: "") -> None:
        self._caller = caller

    def request_ended(self, request: Request, code: str, reason: str, seconds: float) -> None:
        """Write the line of a request."""
        call = request.call
        _, reason = worst([(code, reason), *request.errors])
        fields = {
            "rpc": call.rpc.method,
            "model": _plain(request.model),
            "methods": [_plain(name) for name in request.methods],
            "inputs": request.inputs,
            "code": code,
            "reason": reason,
            "seconds": round(seconds, 6),
            "queue_seconds": round(request.queue_seconds, 6),
        }
        self._write(call, fields)

    def call_ended(self, call: Call, code: str, reason: str, seconds: float) -> None:
        """Write the line of a call that is no request; probes of health are not worth one."""
        if not call.rpc.is_request and call.rpc.service != HEALTH:
            self._write(call, {"rpc": call.rpc.method, "code": code, "reason": reason, "seconds": round(seconds, 6)})

    def _write(self, call: Call, fields: dict[str, object]) -> None:
        if not log.isEnabledFor(logging.INFO):
            return
        text = " ".join(f"{name}={_text(value)}" for name, value in fields.items())
        caller = self._caller()
        if caller:
            text += f" caller={caller}"
        if call.span is not None:
            fields["trace_id"] = f"{call.span.get_span_context().trace_id:032x}"
        log.info(text, extra={**fields, "request_id": call.id, "caller": caller})


def _plain(name: str) -> str:
    """Return a name as a client sent it, without what would break a line or be a line of its own."""
    return _UNUSUAL.sub("?", name[:_NAME_LENGTH])


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value) or "-"
    return str(value) or "-"
