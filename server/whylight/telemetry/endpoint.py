"""The HTTP endpoint that Prometheus reads; knows a registry and who may read it, not what is in it."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from whylight.errors import PermissionDenied, WhylightError

log = logging.getLogger(__name__)

PATH = "/metrics"

REQUEST_SECONDS = 10.0
"""How long a client may take to say what it wants, and to read the answer."""

CONNECTIONS = 32
"""Clients that are answered at once, each in a thread of its own; more are closed."""

App: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
MayRead: TypeAlias = Callable[[str | None], object]
"""Given the Authorization header, if any; raises a WhylightError when its bearer may not read."""


class MetricsEndpoint:
    """A server of metrics, in threads of its own: it answers while the event loop is busy."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        may_read: MayRead | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """Listen on `host` and `port`; 0 lets the system choose. `tls` is asked at each connection, if there is one.

        Raises:
            OSError: the address cannot be listened on.
        """
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]

        class Server(_Server):
            address_family = family
            context = staticmethod(tls) if tls else None

        app = _guarded(make_wsgi_app(registry), may_read)
        try:
            self._server: _Server = make_server(str(address[0]), port, app, Server, _Handler)
        except OSError as error:
            raise OSError(f"cannot serve metrics on {host}:{port}: {error.strerror or error}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="whylight-metrics", daemon=True)
        self._thread.start()
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{'https' if tls else 'http'}://{shown}:{self._server.server_port}{PATH}"

    def close(self) -> None:
        """Stop listening. What is being answered is answered, or cut off by the end of the process."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _guarded(app: App, may_read: MayRead | None) -> App:
    """Answer for one path only, and only those who may read."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return _refuse(start_response, "404 Not Found", f"the metrics are at {PATH}")
        try:
            if may_read is not None:
                may_read(environ.get("HTTP_AUTHORIZATION"))
        except PermissionDenied as error:
            return _refuse(start_response, "403 Forbidden", error.message)
        except WhylightError as error:
            return _refuse(start_response, "401 Unauthorized", error.message, ("WWW-Authenticate", "Bearer"))
        return app(environ, start_response)

    return guarded


def _refuse(start_response: Callable[..., Any], status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{text}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    context: Callable[[], ssl.SSLContext] | None = None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*arguments, **keywords)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            log.debug("a client of the metrics is closed: %d others are there", CONNECTIONS)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # there is no thread for it
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.context is not None:  # hands are shaken in the thread that answers, within its time
            connection = self.context().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client of the metrics broke off", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def address_string(self) -> str:
        return str(self.client_address[0])  # without asking the network for a name
