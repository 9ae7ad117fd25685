"""The listener for administrators: a port whose calls need a token, or a Unix socket of the server's own user."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import grpc.aio

from whylight.open_inference.messages import POOL as OPEN_INFERENCE_POOL
from whylight.rpc import reflection
from whylight.rpc.admin_servicer import AdminServicer
from whylight.rpc.authentication import Authentication
from whylight.rpc.bounded import BOUND_OPTIONS, Bounded, Intake, Outlet, Streams
from whylight.rpc.interceptors import Guard
from whylight.rpc.tls import tls_server_credentials
from whylight.security import Access
from whylight.security.certificates import Certificates
from whylight.settings import Settings
from whylight.telemetry.calls import Observer
from whylight.v1 import admin_pb2, admin_pb2_grpc

ADMIN_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name

REQUEST_BYTES = 64 * 1024
"""Bytes of a request: it has a name in it, and nothing else."""

CALLS = 64
"""Calls that may be open at once, as many of one connection as of all; more are refused with RESOURCE_EXHAUSTED."""

CONNECTIONS = 64
"""Connections that may be open at once; more are closed."""

RECEIVING = 16
"""Calls whose requests are received at once, and streams of requests (reflection) that are open beside them."""

RECEIVE_SECONDS = 10.0
"""How long a request may take to come."""

ANSWER_BYTES = 64 * 2**20
"""Bytes of answers that wait until their readers take them, of all calls."""


class AdminServer:
    """AdminService on its own listener. Must be made and used inside one running event loop."""

    def __init__(
        self,
        settings: Settings,
        servicer: AdminServicer,
        access: Access,
        observer: Observer | None = None,
    ) -> None:
        """Listen as the settings say, once started. A port is encrypted if that of the other services is.

        Raises:
            CertificateError: the settings name certificates that cannot be used.
        """
        self._settings = settings.admin
        tls = settings.tls
        self._certificates = Certificates(tls.certificate, tls.key, tls.client_ca) if tls.certificate else None
        # Whoever can open the socket is the server's own user, who could as well change its files or end it.
        asked = () if settings.admin.socket else (Authentication(access),)
        self._server = grpc.aio.server(
            interceptors=(Guard(observer), *asked, _bounded()),
            maximum_concurrent_rpcs=CALLS,
            options=(
                ("grpc.max_receive_message_length", REQUEST_BYTES),
                ("grpc.max_concurrent_streams", CALLS),
                ("grpc.max_allowed_incoming_connections", CONNECTIONS),
                *BOUND_OPTIONS,
                ("grpc.server.max_pending_requests", CALLS),
                ("grpc.server.max_pending_requests_hard_limit", CALLS),
                ("grpc.so_reuseport", 0),
            ),
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(servicer, self._server)
        reflection.enable_reflection((ADMIN_SERVICE, reflection.SERVICE), self._server, OPEN_INFERENCE_POOL)

    async def start(self) -> str:
        """Listen, and return the address for clients.

        Raises:
            OSError: the address cannot be listened on.
        """
        address = self._bind_socket() if self._settings.socket else self._bind_port()
        await self._server.start()
        return address

    async def stop(self) -> None:
        """Close, and end the streams that are open; what was asked for goes on."""
        await self._server.stop(0)
        if self._settings.socket:
            Path(self._settings.socket).unlink(missing_ok=True)

    def _bind_port(self) -> str:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, tls_server_credentials(self._certificates))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        return f"{host}:{port}"

    def _bind_socket(self) -> str:
        path = Path(self._settings.socket).absolute()
        _refuse_taken(path)
        address = f"unix:{path}"
        before = os.umask(0o177)  # from its first moment on it is nobody else's
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        finally:
            os.umask(before)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != 0o600:
            raise OSError(f"{path} has the mode {mode:o}, not 600: others could open it")
        return address


def _bounded() -> Bounded:
    return Bounded(Intake(RECEIVING, RECEIVE_SECONDS), Streams(RECEIVING), Outlet(ANSWER_BYTES, ANSWER_BYTES // 4))


def _refuse_taken(path: Path) -> None:
    """Refuse a path that is something else, or that another server listens on: gRPC would put its own in its place.

    Raises:
        OSError: so it is.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(f"cannot listen on {path}: it is there, and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left behind by a server that was killed
    raise OSError(f"cannot listen on {path}: another server does")
