"""Who asks, for whoever counts, logs or queues on its behalf: a name, never the token; knows no token."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass

from whylight.security.rates import UNLIMITED, Rates
from whylight.security.scope import Scope


@dataclass(frozen=True)
class Caller:
    """Someone who was let in. `name` is that of the token in the operator's file; it is no secret, to nobody."""

    name: str
    scopes: frozenset[Scope]
    rates: Rates = UNLIMITED


ANONYMOUS = Caller("anonymous", frozenset({Scope.EXPLAIN, Scope.CATALOG, Scope.METRICS}))
"""Everybody, on a server without tokens. Nobody is an administrator without one."""

_current: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """Return who this code works for; `ANONYMOUS` outside of calls and on a server without tokens."""
    return _current.get()


def set_caller(caller: Caller) -> None:
    """Say who the current task, and the tasks that it begins, work for."""
    _current.set(caller)
