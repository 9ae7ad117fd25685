"""The server that a benchmark runs on this machine: how loads reach it, and how it shares the processor with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whylight.testing.server import RunningServer


def reach(server: RunningServer) -> dict[str, Any]:
    """Return what a `Load` is told of the server: without TLS, without tokens."""
    return {"server": server.address, "tls": False, "ca": None, "credentials": {}}


def favour(pid: int, niceness: int) -> None:
    """Set the niceness of a process's session, which is what counts where Linux groups processes by session."""
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        group.write_text(str(niceness))
