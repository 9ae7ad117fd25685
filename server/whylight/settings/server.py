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
        1024,
        description="Calls that one connection may have open at once; more wait at the client, which is told the "
        "number when it connects (those of a client that does not keep to it are reset with REFUSED_STREAM).",
    )
    connections: Positive = Field(1024, description="Connections that may be open at once; more are closed.")
    calls: Positive = Field(
        8192,
        description="Calls that may be open at once, of all connections; more are refused with RESOURCE_EXHAUSTED.",
    )
    streams: Positive = Field(
        128, description="Calls among them that may send one message after the other; more: TOO_MANY_STREAMS."
    )
    receive_bytes: Positive = Field(
        4 * 2**30,
        description="Bytes of messages that are being received, of all calls but streams: so many are read at once as "
        "have room at limits.message_bytes each, and the others wait at the client.",
    )
    receive_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="How long a message may take to come before its call ends with MESSAGE_LATE; one that waits twice "
        "as long for its turn is refused with RECEIVING_FULL.",
    )
    answer_bytes: Positive = Field(
        1 * 2**30,
        description="Bytes of answers that wait until their readers take them, a quarter of it for one connection; an "
        "answer that finds no room is dropped, and its call refused with ANSWERS_WAITING.",
    )
    stream_window: Positive = Field(
        64,
        description="Requests of one StreamExplain call that are worked on at once; the client's next ones wait. Twice "
        "batching.max_batch lets one stream of single pictures feed both batches that a worker holds.",
    )
    response_bytes: Positive = Field(
        256 * 2**20,
        description="Bytes in one answer at most; a call that asks for more is refused with RESPONSE_TOO_LARGE.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
