"""[authentication]: who may call; checks no token."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import Section


class AuthenticationSettings(Section):
    """Who may call. Tokens are never written here, nor on a command line: `whylight token new` makes them."""

    tokens_file: str = Field(
        "",
        description="TOML file of the tokens' digests and scopes, writable by its owner only; read again on SIGHUP. "
        "Unset: no call needs a token, and nobody is an administrator.",
    )
