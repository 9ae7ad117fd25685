"""[tracing]: which calls are traced and where the spans go; makes none."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from whylight.settings.section import Section


def _endpoint(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise ValueError("no endpoint; write http://host:port, or https://host:port for TLS")
    return text


class TracingSettings(Section):
    """OpenTelemetry traces of calls and batches, sent over OTLP. They need ``pip install 'whylight[telemetry]'``."""

    enabled: bool = Field(False, description="Whether to trace.")
    endpoint: Annotated[str, AfterValidator(_endpoint)] = Field(
        "",
        description="Collector that spans are sent to over gRPC, such as `http://127.0.0.1:4317`. Unset: what "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` says, else that address.",
    )
    ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of calls that is traced, of those whose client has not decided it in a `traceparent`.",
    )
    service_name: str = Field("whylight", min_length=1, description="Name of the server in the traces.")
