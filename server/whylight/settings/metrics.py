"""[metrics]: where Prometheus reads; listens to nothing."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import Section


class MetricsSettings(Section):
    """Where Prometheus reads the metrics, over HTTP at ``/metrics``. Nothing is counted unless there is a port."""

    port: int | None = Field(
        None, ge=0, le=65535, description="Port to serve metrics on. 0 lets the system choose; the log says which."
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to serve metrics on. On others than this machine's own they are encrypted as [tls] says, "
        "and whoever reads needs a token with the scope `metrics`, if there are tokens.",
    )
