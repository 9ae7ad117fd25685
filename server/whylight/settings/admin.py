"""[admin]: where an administrator reaches the server; listens to nothing."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import Section


class AdminSettings(Section):
    """Where models are loaded, unloaded and reloaded while the server runs. Closed unless a port or a socket is set."""

    socket: str = Field(
        "",
        description="Path of a Unix socket to listen on, which only the server's own user can open: no token is asked "
        "for.",
    )
    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port to listen on instead, never that of [server]; calls need a token with the scope `admin`. "
        "0 lets the system choose; the log says which.",
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address of the port. On others than this machine's own it needs a certificate ([tls]).",
    )

    @property
    def enabled(self) -> bool:
        """Whether there is anything to listen on."""
        return bool(self.socket) or self.port is not None
