"""The gRPC context that a call is given, and what is read from it; knows no service."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, TypeAlias

import grpc.aio

from whylight.security.caller import ANONYMOUS, current_caller

_peer: contextvars.ContextVar[str | None] = contextvars.ContextVar("peer", default=None)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def deadline_of(context: Context) -> float | None:
    """Return the call's deadline on the clock of the running loop, None when it has none."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


def note_peer(context: Context) -> None:
    """Remember the other end of the connection, for whatever the current task begins."""
    _peer.set(context.peer())


def turn_taker() -> str | None:
    """Return whose turns the current call uses up: a token's name, or else a connection. None outside of calls."""
    name = current_caller().name
    return name if name != ANONYMOUS.name else _peer.get()
