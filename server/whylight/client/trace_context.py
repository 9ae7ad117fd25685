"""The caller's trace as metadata of a call, where the caller uses OpenTelemetry; depends on it in no way."""

from __future__ import annotations

import sys


def trace_context() -> list[tuple[str, str | bytes]]:
    """Return what tells a server which span its own belong to, such as ``traceparent``; nothing outside of spans.

    A program that never imported OpenTelemetry has no spans, and is not made to import it.
    """
    if "opentelemetry.trace" not in sys.modules:
        return []
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return list(carrier.items())
