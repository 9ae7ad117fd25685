"""The server's certificate, its key and whom it trusts, as files that change while it runs; speaks no TLS itself."""

from __future__ import annotations

import os
import ssl
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path


class CertificateError(Exception):
    """A certificate or key cannot be used; the message tells an operator why."""


@dataclass(frozen=True)
class Identity:
    """What the files hold, as PEM. `client_ca` is None when clients need no certificate."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


class Certificates:
    """Reads the files, and reads them again when they have changed. Any thread may ask.

    Rotation writes several files one after the other, so what does not fit together is not an error but not yet there:
    the former certificate stays until the new one is whole.

    Raises:
        CertificateError: the files cannot be read or do not fit together now.
    """

    def __init__(self, certificate: str | Path, key: str | Path, client_ca: str | Path | None = None) -> None:
        self._paths = tuple(Path(path) for path in (certificate, key, client_ca) if path)
        self._lock = threading.Lock()
        self._state = self._stamp()
        self._identity = self._read()
        self._failed = ""

    @property
    def identity(self) -> Identity:
        """What is in use."""
        return self._identity

    @property
    def failed(self) -> str:
        """Why the newest files are not in use; empty when they are."""
        return self._failed

    def refresh(self) -> Identity | None:
        """Return what the files hold if that has changed and is whole, else None."""
        with self._lock:
            try:
                state = self._stamp()
                if state == self._state:
                    self._failed = ""  # perhaps the former files were put back
                    return None
                identity = self._read()
            except CertificateError as error:
                self._failed = str(error)
                return None
            self._state, self._failed = state, ""
            if identity == self._identity:
                return None
            self._identity = identity
            return identity

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what differs once a file was written or, as in Kubernetes, the link to it was moved."""
        states = [_stat(path) for path in self._paths]
        return tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)

    def _read(self) -> Identity:
        certificate, key, *rest = self._paths
        _check_key_mode(key)
        # A context of ssl reads them first, since gRPC says nothing of what is wrong: handshakes would fail one by one.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
            for authorities in rest:
                context.load_verify_locations(authorities)
        except ValueError as error:
            raise CertificateError(f"{key}: {error}") from None
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(map(str, self._paths))
            raise CertificateError(
                f"{names}: {error.strerror or error}; all are PEM, and the key is the certificate's"
            ) from None
        try:
            chain, private, *trusted = [path.read_bytes() for path in self._paths]
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from None
        return Identity(chain, private, trusted[0] if trusted else None)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None


def _check_key_mode(key: Path) -> None:
    mode = stat.S_IMODE(_stat(key).st_mode)
    if os.name != "nt" and mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise CertificateError(
            f"{key}: mode {mode:04o} lets others in; chmod 600 (or 640 for a group that may read it)"
        )


def _no_password() -> str:
    """Refuse: without this, OpenSSL asks for the password of an encrypted key on the terminal, and waits."""
    raise ValueError("the key is encrypted; the server needs one without a password")
