"""What is newest of a kind, for readers that may be slow: newer news replaces older; knows not what it is about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
News = TypeVar("News")


class Latest(Generic[Key, News]):
    """Holds at most one piece of news for each key, so that what waits for a slow reader does not grow.

    Whoever puts news for a key under which nothing waits gets True, and queues the key for the reader, who takes what
    is newest by then. Any thread may put, take and drop.
    """

    def __init__(self) -> None:
        self._waiting: dict[Key, News] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, key: Key, news: News) -> bool:
        """Keep news in place of older ones; return whether there were none, so that the key is to be queued."""
        with self._lock:
            first = key not in self._waiting
            self._waiting[key] = news
            return first

    def take(self, key: Key) -> News | None:
        """Return the newest of a key and keep it no longer; None when it was dropped."""
        with self._lock:
            return self._waiting.pop(key, None)

    def drop(self, outdated: Callable[[Key], bool]) -> None:
        """Forget the news of the keys for which `outdated` is true; they may be queued still."""
        with self._lock:
            for key in [key for key in self._waiting if outdated(key)]:
                del self._waiting[key]
