"""Has SIGHUP do nothing to a process that will be a server and is not yet one; knows not what it means to a server."""

from __future__ import annotations

import signal


def ignore_hang_up() -> None:
    """Ignore SIGHUP until a handler is installed: whoever sends it early would end the process.

    Nothing is lost by it: what SIGHUP has a server read again is read after this for the first time.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
