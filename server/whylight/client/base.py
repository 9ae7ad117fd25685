"""What the blocking and the asyncio client have in common: how they are made; sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from whylight.client.connection import DEFAULT_ADDRESS, Connection, Metadata, choose_credentials, open_rpcs


class BaseClient:
    """A connection to a whylight server.

    Every call raises the exceptions of `whylight.errors`, such as `NotFound`, `Overloaded` or `DeadlineExceeded`. Calls
    that a server turns away as UNAVAILABLE or RESOURCE_EXHAUSTED are tried again by gRPC, four times in all, within
    their deadline (`whylight.client.connection.SERVICE_CONFIG`); streams are not.

    Args:
        address: ``host:port``, or any target that gRPC understands, such as ``unix:/run/whylight.sock``.
        tls: encrypt, and trust the authorities that gRPC knows. Without TLS, the connection is open.
        ca: PEM file of the authorities to trust in their place; means `tls`.
        certificate: PEM file of the client's own certificate chain, for servers that ask for one; means `tls`.
        key: PEM file of its private key.
        token: bearer token, or a function that returns the current one, such as `whylight.client.token_from_file`
            makes. Refused without TLS, except on this machine.
        credentials: credentials of gRPC, in place of `tls` and the three files.
        metadata: entries for every call, or a function that returns them (a ``traceparent``, a request id).
        deadline: seconds that a call may take, its retries included, when it names none of its own. None: for ever.
        options: channel options of gRPC, over those of whylight.

    Raises:
        ValueError: a token that would travel in the clear, or settings that do not go together.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        tls: bool = False,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        token: str | Callable[[], str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata | Callable[[], Metadata] = (),
        deadline: float | None = 120.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        credentials = choose_credentials(credentials, tls, ca, certificate, key)
        self._connection = Connection(address, credentials, token, metadata, tuple((options or {}).items()))
        self._deadline = deadline
        self._max_bytes = int(dict(self._connection.channel_options())["grpc.max_send_message_length"])
        self._channel = self._open_channel(self._connection)
        self._rpcs = open_rpcs(self._channel)

    def _open_channel(self, connection: Connection) -> Any:
        raise NotImplementedError

    def _settings(self, deadline: float | None) -> dict[str, Any]:
        """Return what every call is begun with."""
        return {
            "timeout": self._deadline if deadline is None else deadline,
            "metadata": self._connection.metadata(),
        }

    def _stream_settings(self, deadline: float | None) -> dict[str, Any]:
        """Return what a stream is begun with: it may stay open for days, so the client's own deadline is not for it."""
        return {"timeout": deadline, "metadata": self._connection.metadata()}
