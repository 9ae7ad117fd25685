"""Sends spans to an OpenTelemetry collector; makes none.

Imported only when traces are wanted: it needs the extra `telemetry`.
"""

from __future__ import annotations

import uuid
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON


def otlp_provider(endpoint: str, service_name: str) -> TracerProvider:
    """Return a provider of its own for one server, which sends from a thread.

    Without an endpoint, OTEL_EXPORTER_OTLP_ENDPOINT says where to, else it is this machine's port 4317; certificates,
    headers and time limits are those of OpenTelemetry's own variables.
    """
    resource = Resource.create(
        {
            "service.name": service_name,
            "service.version": version("whylight"),
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint or None)))
    return provider
