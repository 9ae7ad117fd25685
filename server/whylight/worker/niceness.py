"""Has a thread, or a process, give way to others where both want a core; knows nothing of what they do."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

_log = logging.getLogger(__name__)

LEAST_PRIORITY = 19
"""The niceness above which there is none."""

_SESSION = Path("/proc/self/autogroup")
"""Where Linux, if it groups processes by session, has the niceness of ours: between sessions no other counts."""


def give_way(steps: int) -> None:
    """Raise the niceness of the calling thread by `steps` over its process's; on Linux, where threads have their own.

    Each step makes its share of a core that others want too about a fifth smaller; a core that nobody wants it has all
    the same. Raises nothing: a thread that may not is as it was, which costs time and no more.
    """
    if sys.platform != "linux":
        return
    try:
        niceness = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(niceness + steps, LEAST_PRIORITY))
    except OSError as error:
        _log.warning("the thread %s does not give way to others: %s", threading.current_thread().name, error)


def give_way_with_all(steps: int) -> None:
    """Raise the niceness of the calling thread, of those that it starts from now on, and of the process's session.

    To be called by a process that leads a session of its own, before it has other threads that matter. Linux only; it
    raises nothing, as `give_way`.
    """
    if sys.platform != "linux" or not steps:
        return
    give_way(steps)
    try:
        if _SESSION.exists():
            _SESSION.write_text(str(steps))
    except OSError as error:
        _log.warning("this worker does not give way to the front end: %s", error)
