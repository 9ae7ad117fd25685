"""How a client reaches a server: address, credentials, channel options, retries, what rides along; sends nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2_grpc

from whylight.addresses import is_loopback
from whylight.client.trace_context import trace_context
from whylight.limits import Limits
from whylight.v1 import catalog_pb2_grpc, explanation_pb2_grpc

Metadata: TypeAlias = "Iterable[tuple[str, str | bytes]]"

DEFAULT_ADDRESS = "127.0.0.1:50051"

SEND_BYTES = Limits.message_bytes
RECEIVE_BYTES = 256 * 2**20
"""Full-size maps are larger than the pictures that they explain; a server's own bound is smaller or the same."""

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "whylight.v1.ExplanationService", "method": "Explain"},
                {"service": "whylight.v1.ExplanationService", "method": "Evaluate"},
                {"service": "whylight.v1.CatalogService"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
}
"""Retries are gRPC's own (gRFC A6), within the call's deadline and with jitter; a stream is never sent again.

Explaining changes nothing on the server, so a second try is always safe. A server that knows better when to come back
says so in the trailer ``grpc-retry-pushback-ms``, which gRPC obeys in place of the backoff (negative: do not retry);
the RetryInfo of the status tells the same to the caller, as `WhylightError.retry_after`. Throttling keeps many failing
calls from becoming a storm.
"""

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_send_message_length", SEND_BYTES),
    ("grpc.max_receive_message_length", RECEIVE_BYTES),
    # A call whose request is larger than this buffer is not retried, and gRPC's own 256 KiB is below most photographs.
    ("grpc.per_rpc_retry_buffer_size", SEND_BYTES),
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    # A dead peer is found also when nothing is sent; servers by default take pings more often than 5 minutes amiss.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


@dataclass(frozen=True)
class Connection:
    """Everything that is needed to open a channel and to begin a call on it."""

    address: str = DEFAULT_ADDRESS
    credentials: grpc.ChannelCredentials | None = None
    token: str | Callable[[], str] | None = None
    extra: Metadata | Callable[[], Metadata] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.token is not None and self.credentials is None and not is_local(self.address):
            raise ValueError(f"a token would travel to {self.address} in the clear: say tls=True")

    def channel_options(self) -> list[tuple[str, Any]]:
        """Return the channel's options: ours, and over them the caller's."""
        return list({**dict(CHANNEL_OPTIONS), **dict(self.options)}.items())

    def metadata(self) -> list[tuple[str, str | bytes]]:
        """Return what rides along with a call that begins now; callables are asked each time.

        The trace of the caller's current span is in it, unless the caller brings a ``traceparent`` of its own.
        """
        extra = list(self.extra() if callable(self.extra) else self.extra)
        if all(key != "traceparent" for key, _ in extra):
            extra += trace_context()
        if self.token is None:
            return extra
        token = self.token() if callable(self.token) else self.token
        return [*extra, ("authorization", f"Bearer {token}")]


def is_local(address: str) -> bool:
    """Return whether an address stays on this machine: a Unix socket, localhost or a loopback address."""
    if address.startswith("unix:"):
        return True
    return is_loopback(address.removeprefix("dns:").lstrip("/").rpartition(":")[0].strip("[]"))


def choose_credentials(
    credentials: grpc.ChannelCredentials | None,
    tls: bool,
    ca: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> grpc.ChannelCredentials | None:
    """Return the credentials that a caller means: its own, or TLS as soon as one of the others is given.

    Raises:
        OSError: a file cannot be read.
        ValueError: both ways at once, or a certificate without its key.
    """
    wanted = tls or not (ca is certificate is key is None)
    if wanted and credentials is not None:
        raise ValueError("credentials say it all: leave out tls, ca, certificate and key")
    return tls_credentials(ca=ca, certificate=certificate, key=key) if wanted else credentials


def tls_credentials(
    *, ca: str | Path | None = None, certificate: str | Path | None = None, key: str | Path | None = None
) -> grpc.ChannelCredentials:
    """Return credentials for TLS.

    Args:
        ca: PEM file of the authorities to trust; None means gRPC's own list.
        certificate: PEM file of the client's certificate chain, for servers that ask for one.
        key: PEM file of the client's private key.

    Raises:
        OSError: a file cannot be read.
        ValueError: a certificate without its key, or the other way round.
    """
    if (certificate is None) != (key is None):
        raise ValueError("a client's certificate and its key come together")
    root, chain, private = (None if file is None else Path(file).read_bytes() for file in (ca, certificate, key))
    return grpc.ssl_channel_credentials(root, private, chain)


def token_from_file(path: str | Path) -> Callable[[], str]:
    """Return a function that reads a bearer token from a file for each call, so that a token that is replaced is used.

    The function raises:
        OSError: the file cannot be read.
        ValueError: there is no token in it.
    """

    def read() -> str:
        token = Path(path).read_text(encoding="utf-8").strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError(f"{path}: not one token")
        return token

    return read


def open_rpcs(channel: Any) -> dict[str, Any]:
    """Return the calls of all services on a channel, blocking or asyncio, by name."""
    explanation = explanation_pb2_grpc.ExplanationServiceStub(channel)
    catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
    health = health_pb2_grpc.HealthStub(channel)
    return {**vars(explanation), **vars(catalog), "Watch": health.Watch}
