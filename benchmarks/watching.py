"""Watches what the processes of a server hold: memory, file descriptors, threads; knows not what they are asked."""

from __future__ import annotations

import statistics
import threading
import time
from types import TracebackType
from typing import Any

import psutil

HELD = ("rss", "descriptors", "threads")


class Watch:
    """Takes samples of the front end and of its worker every so often, in a thread, while the block runs.

    Each sample is a dictionary: `time` on the monotonic clock, and for each process what it holds, `rss` in bytes.
    """

    def __init__(self, front_end: int, every: float) -> None:
        parent = psutil.Process(front_end)
        (worker,) = parent.children()
        self._processes = {"front end": parent, "worker": worker}
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[dict[str, Any]] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def pids(self) -> list[int]:
        """Ids of the processes."""
        return [process.pid for process in self._processes.values()]

    def alive(self) -> list[int]:
        """Return the ids of the front end and its children as they are now."""
        parent = self._processes["front end"]
        return [parent.pid, *(child.pid for child in parent.children())]

    def sample(self) -> dict[str, Any]:
        """Take one sample more, now."""
        taken: dict[str, Any] = {"time": time.monotonic()}
        for name, process in self._processes.items():
            taken[name] = {
                "rss": process.memory_info().rss,
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
            }
        self.samples.append(taken)
        return taken

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self.sample()


def growth(samples: list[dict[str, Any]], process: str, held: str) -> float:
    """Return by what share more a process holds at the end of some samples than at their beginning.

    Of both, the median of a tenth of the samples counts, so that no single moment does.
    """
    values = [sample[process][held] for sample in samples]
    tenth = max(1, len(values) // 10)
    return statistics.median(values[-tenth:]) / statistics.median(values[:tenth]) - 1
