"""[tls]: how the port is encrypted, and which clients' certificates it takes; reads no certificate."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import Section


class TlsSettings(Section):
    """How the port is encrypted. Files are PEM, and looked at again for every new connection."""

    certificate: str = Field(
        "", description="File of the server's certificate chain. Unset: the port speaks plain gRPC."
    )
    key: str = Field("", description="File of its private key, without a password; others must not be able to read it.")
    client_ca: str = Field(
        "",
        description="File of the authorities whose certificates clients must show (mTLS). Unset: clients need none.",
    )
    ends_elsewhere: bool = Field(
        False,
        description="Says that a proxy in front of this server ends TLS, and that nobody else can reach the port. "
        "Needed to take tokens without TLS at an address that others can reach.",
    )
