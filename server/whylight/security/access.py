"""Decides whether a token may ask for something; knows no gRPC, and no service but by scope.

An unknown token and an expired one are answered alike: whoever tries tokens learns nothing from the answer. The log
tells the operator which it was, by name.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from whylight.errors import PermissionDenied, RateLimited, Unauthenticated
from whylight.security.caller import ANONYMOUS, Caller, current_caller
from whylight.security.rates import UNLIMITED, Bucket, Rates
from whylight.security.scope import Scope
from whylight.security.token_file import Token, TokenFileError, read_token_file

log = logging.getLogger(__name__)

BURST_SECONDS = 10.0
"""How long a caller's unused share gathers, unless the operator says otherwise."""

LEAST_CREDIT = 1e-9
"""Model evaluations that a caller must have left to be given any amount of them."""


class Access:
    """The list of who may ask for what; without a file everybody may ask for everything but administration.

    Shared by all listeners of a server. `rates` are those of tokens that name none, and of everybody together where
    there are no tokens; what is not used of them gathers for `burst_seconds`. `clock` gives seconds since 1970, by
    which tokens expire, and `timer` seconds that only grow, by which rates are kept.

    Raises:
        TokenFileError: there is a file, and it cannot be used.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        rates: Rates = UNLIMITED,
        burst_seconds: float = BURST_SECONDS,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path or None
        self._rates = rates
        self._anonymous = ANONYMOUS if rates == UNLIMITED else replace(ANONYMOUS, rates=rates)
        self._burst_seconds = burst_seconds
        self._clock = clock
        self._timer = timer
        self._buckets: dict[tuple[str, str], Bucket] = {}
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
            return self._anonymous
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
        return Caller(found.name, found.scopes, self._rates_of(found))

    def charge_call(self) -> None:
        """Count one call of the current caller.

        Raises:
            RateLimited: it has made as many as it may; `retry_after` says when the next is due.
        """
        rate = current_caller().rates.calls_per_second
        if rate is not None:
            self._charge("calls_per_second", 1.0, rate, least=1.0)

    def charge_evaluations(self, count: float) -> None:
        """Count what a call of the current caller costs, in model evaluations, before any of them is done.

        A caller that has any left is given all that it asks for, and pays later: else large calls could never come in.
        A negative count gives back what was not done after all.

        Raises:
            RateLimited: it has none left; `retry_after` says when it will.
        """
        rate = current_caller().rates.evaluations_per_second
        if rate is not None:
            self._charge("evaluations_per_second", count, rate, least=LEAST_CREDIT if count > 0 else -math.inf)

    def _charge(self, limit: str, amount: float, rate: float, *, least: float) -> None:
        caller = current_caller()
        bucket = self._buckets.setdefault((caller.name, limit), Bucket())
        capacity = max(rate * self._burst_seconds, 1.0)
        wait = bucket.take(amount, rate=rate, capacity=capacity, least=least, now=self._timer())
        if wait > 0:
            raise RateLimited(
                f"more than the {rate:g} {limit.replace('_', ' ')} of {caller.name}; try again in {wait:.3g} s",
                retry_after=wait,
                metadata={"caller": caller.name, "limit": limit, "rate": f"{rate:g}"},
            )

    def _rates_of(self, token: Token) -> Rates:
        calls, evaluations = token.calls_per_second, token.evaluations_per_second
        return Rates(
            self._rates.calls_per_second if calls is None else calls,
            self._rates.evaluations_per_second if evaluations is None else evaluations,
        )

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
