"""The token by which a caller takes work back; knows neither who cancels nor what is cancelled, and no torch."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from whylight.errors import Cancelled


class CancelToken:
    """Says whether work is still wanted. Any thread may cancel it, any thread may ask; it never goes back.

    A token made of others is cancelled when every one of them is: a batch goes on while one caller still waits.
    """

    def __init__(self, parts: Iterable[CancelToken] = ()) -> None:
        self._event = threading.Event()
        self._parts = tuple(parts)

    @property
    def cancelled(self) -> bool:
        """Whether the work is not wanted any more."""
        return self._event.is_set() or (bool(self._parts) and all(part.cancelled for part in self._parts))

    def cancel(self) -> None:
        """Take the work back."""
        self._event.set()

    def check(self) -> None:
        """Do nothing while the work is wanted.

        Raises:
            Cancelled: it is not.
        """
        if self.cancelled:
            raise Cancelled("the call was cancelled")
