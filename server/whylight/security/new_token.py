"""Makes a token and the lines of the operator's file that stand for it; keeps neither."""

from __future__ import annotations

import datetime
import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

PREFIX = "whylight_"
"""What every token begins with, so that scanners for secrets that lie about can find it."""

TOKEN_BYTES = 32
"""Random bytes in a token: 256 bits."""


@dataclass(frozen=True)
class NewToken:
    """A token, to be given to its bearer, and `lines`, TOML for the server's file. Only the latter may be kept."""

    token: str = field(repr=False)
    lines: str


def new_token(
    name: str,
    scopes: Collection[str],
    *,
    expires: datetime.datetime | None = None,
    calls_per_second: float | None = None,
    evaluations_per_second: float | None = None,
) -> NewToken:
    """Make a token. `expires` has a time zone."""
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    lines = [
        "[[tokens]]",
        f'name = "{name}"',
        f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"',
        f"scopes = [{listed}]",
    ]
    if expires is not None:
        lines.append(f"expires = {expires.isoformat(timespec='seconds')}")
    if calls_per_second is not None:
        lines.append(f"calls_per_second = {calls_per_second}")
    if evaluations_per_second is not None:
        lines.append(f"evaluations_per_second = {evaluations_per_second}")
    return NewToken(token, "\n".join(lines) + "\n")
