"""Decides whether a token may ask for something; knows no gRPC, and no service but by scope.

An unknown token and an expired one are answered alike: whoever tries tokens learns nothing from the answer. The log
tells the operator which it was, by name.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

from whylight.errors import PermissionDenied, Unauthenticated
from whylight.security.caller import ANONYMOUS, Caller
from whylight.security.scope import Scope
from whylight.security.token_file import Token, TokenFileError, read_token_file

log = logging.getLogger(__name__)


class Access:
    """The list of who may ask for what; without a file everybody may ask for everything but administration.

    Shared by all listeners of a server. `clock` gives seconds since 1970, by which tokens expire.

    Raises:
        TokenFileError: there is a file, and it cannot be used.
    """

    def __init__(self, path: str | Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path or None
        self._clock = clock
        self._tokens: tuple[Token, ...] = ()
        if self._path is not None:
            self._tokens = read_token_file(self._path)

    @property
    def needs_token(self) -> bool:
        """Whether callers are asked for a token."""
        return self._path is not None

    def check(self, token: str | None, scope: Scope) -> Caller:
        """Return who asks, if they may ask for what `scope` names.

        Raises:
            Unauthenticated: there is no token (TOKEN_MISSING), or it is none of ours or no longer (TOKEN_INVALID).
            PermissionDenied: the token is good, but not for this (SCOPE_MISSING), or this server has no tokens and
                therefore no administrators (TOKENS_OFF).
        """
        caller = self.identify(token)
        if scope not in caller.scopes:
            if not self.needs_token:
                raise PermissionDenied(
                    "this server has no tokens, and without one nobody may do this", reason="TOKENS_OFF"
                )
            log.warning("%s asked for what needs the scope %s", caller.name, scope.value)
            raise PermissionDenied(
                f"the token lacks the scope {scope.value!r}", reason="SCOPE_MISSING", metadata={"scope": scope.value}
            )
        return caller

    def identify(self, token: str | None) -> Caller:
        """Return who asks, whatever for.

        Raises:
            Unauthenticated: as `check` says.
        """
        if not self.needs_token:
            return ANONYMOUS
        if not token:
            raise Unauthenticated("the call has no bearer token", reason="TOKEN_MISSING")
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found: Token | None = None
        for candidate in self._tokens:  # all of them, always: the time tells nothing
            if hmac.compare_digest(candidate.digest, digest):
                found = candidate
        if found is None:
            raise _invalid()
        if found.expires is not None and found.expires.timestamp() <= self._clock():
            log.warning("the token of %s has expired", found.name)
            raise _invalid()
        return Caller(found.name, found.scopes)

    def reload(self) -> None:
        """Read the file again; when it cannot be used, log why and keep what there was."""
        if self._path is None:
            return
        try:
            self._tokens = read_token_file(self._path)
        except TokenFileError as error:
            log.error("the tokens stay as they were: %s", error)
        else:
            log.info("%d tokens", len(self._tokens))


def bearer_token(authorization: str | None) -> str | None:
    """Return the token of an ``Authorization: Bearer ...`` header or metadata entry; None when it holds none."""
    kind, _, token = (authorization or "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def _invalid() -> Unauthenticated:
    return Unauthenticated("the token is not valid", reason="TOKEN_INVALID")
