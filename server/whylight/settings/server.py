"""[server]: where and how the server listens; listens to nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whylight.settings.section import Positive, Seconds, Section


class ServerSettings(Section):
    """Where and how the server listens."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. Others than this machine's own are open to the network.",
    )
    port: int = Field(
        50051, ge=0, le=65535, description="Port to listen on. 0 lets the system choose; the server prints it."
    )
    reflection: bool = Field(
        True, description="Whether clients may ask for the services' descriptions (buf curl, grpcurl)."
    )
    drain_seconds: Seconds = Field(30.0, description="After SIGTERM, how long calls in flight may take to finish.")
    lame_duck_seconds: Seconds = Field(
        0.0,
        description="After SIGTERM, how long new calls are still taken while health says NOT_SERVING: "
        "load balancers need time to look away.",
    )
    calls_per_connection: Positive = Field(
        1024, description="Calls that one connection may have open at once; more wait at the client."
    )
    stream_window: Positive = Field(
        32, description="Requests of one StreamExplain call that are worked on at once; the client's next ones wait."
    )
    response_bytes: Positive = Field(
        256 * 2**20,
        description="Bytes in one answer at most; a call that asks for more is refused with RESPONSE_TOO_LARGE.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
