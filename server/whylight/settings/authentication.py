"""[authentication]: who may call; checks no token."""

from __future__ import annotations

from pydantic import Field

from whylight.security import Access, Rates
from whylight.security.access import BURST_SECONDS
from whylight.settings.section import Section


class AuthenticationSettings(Section):
    """Who may call. Tokens are never written here, nor on a command line: `whylight token new` makes them."""

    tokens_file: str = Field(
        "",
        description="TOML file of the tokens' digests and scopes, writable by its owner only; read again on SIGHUP. "
        "Unset: no call needs a token, and nobody is an administrator.",
    )
    calls_per_second: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Calls that the bearer of a token may make per second, and requests of its streams, unless its "
        "token says otherwise; without tokens, those of everybody together. Unset: any number.",
    )
    evaluations_per_second: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Model evaluations that those calls may cost per second. Unset: any number.",
    )
    burst_seconds: float = Field(
        BURST_SECONDS,
        gt=0,
        le=3600,
        description="How long what a caller leaves of its rates gathers: so many seconds' worth may come at once.",
    )

    def access(self) -> Access:
        """Return who may call, as the rest of the server asks it.

        Raises:
            TokenFileError: the file of tokens cannot be used.
        """
        rates = Rates(self.calls_per_second, self.evaluations_per_second)
        return Access(self.tokens_file, rates=rates, burst_seconds=self.burst_seconds)
