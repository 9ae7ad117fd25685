"""Signs of life of work that goes on, gathered from wherever it passes; knows no frames and no work."""

from __future__ import annotations

import threading
from collections.abc import Callable

from whylight.subject.cancel import CancelToken


class Pulse:
    """Counts beats. Whoever gets work one step on beats it, from any thread; a thread of its own tells of it.

    What hangs beats no more: not the time that passes is told, but that something has happened in it. So a step may
    take as long as it likes while it runs the model again and again, and a plugin that waits for ever is found.
    """

    def __init__(self) -> None:
        self._beats = 0
        self._told = 0
        self._stopped = threading.Event()

    def beat(self) -> None:
        """Note that something went on."""
        self._beats += 1  # Two threads at once may count one beat; that there was one is what matters.

    def fresh(self) -> bool:
        """Return whether there was a beat since this was asked last."""
        beats, told = self._beats, self._told
        self._told = beats
        return beats != told

    def tell(self, interval: float, say: Callable[[], None]) -> None:
        """Call `say` once in `interval` seconds in which there was a beat, until it is stopped."""
        while not self._stopped.wait(interval):
            if self.fresh():
                say()

    def stop(self) -> None:
        """End `tell`."""
        self._stopped.set()


class BeatingToken(CancelToken):
    """A token that beats a pulse whenever it is asked: it is before each pass of the model, and between pictures."""

    def __init__(self, pulse: Pulse) -> None:
        super().__init__()
        self._pulse = pulse

    @property
    def cancelled(self) -> bool:
        """Whether the work is not wanted any more."""
        self._pulse.beat()
        return super().cancelled
