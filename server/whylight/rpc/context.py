"""The gRPC context that a call is given, and what is read from it; knows no service."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import grpc.aio

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def deadline_of(context: Context) -> float | None:
    """Return the call's deadline on the clock of the running loop, None when it has none."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining
