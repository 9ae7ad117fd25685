"""TLS of the metrics endpoint, with certificates that may change while it listens; knows no HTTP."""

from __future__ import annotations

import contextlib
import ssl

from whylight.security.certificates import Certificates


class EndpointTls:
    """Makes the context of a new connection from files; those that do not fit together yet change nothing.

    Raises:
        CertificateError: the files cannot be used.
    """

    def __init__(self, certificate: str, key: str, client_ca: str = "") -> None:
        self._files = certificate, key, client_ca
        self._certificates = Certificates(*self._files)
        self._context = self._read()

    def __call__(self) -> ssl.SSLContext:
        """Return the context for a connection that begins now."""
        if self._certificates.refresh() is not None:
            with contextlib.suppress(OSError):  # ssl.SSLError is one
                self._context = self._read()
        return self._context

    def _read(self) -> ssl.SSLContext:
        certificate, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
