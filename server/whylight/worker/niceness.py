"""Has a thread give way to the others of its process where both want a core; knows nothing of what they do."""

from __future__ import annotations

import logging
import os
import sys
import threading

_log = logging.getLogger(__name__)

LEAST_PRIORITY = 19
"""The niceness above which there is none."""


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
