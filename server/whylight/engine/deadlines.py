"""Absolute deadlines of things with ids, earliest first; pure and synchronous, knows no clock and no timer."""

from __future__ import annotations

import heapq
import math


class Deadlines:
    """Who must be done by when. Adding and passing cost O(log n); discarding is O(1) and is made good later."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._deadlines: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, id: int, deadline: float) -> None:
        """Watch `id`; an infinite deadline is not watched. Ids are never used twice."""
        if deadline < math.inf:
            self._deadlines[id] = deadline
            heapq.heappush(self._heap, (deadline, id))

    def discard(self, id: int) -> None:
        """Watch `id` no more."""
        if self._deadlines.pop(id, None) is not None and len(self._heap) > 2 * len(self._deadlines) + 64:
            self._heap = [(deadline, id) for id, deadline in self._deadlines.items()]
            heapq.heapify(self._heap)

    def next(self) -> float:
        """Return the earliest deadline, infinity when there is none."""
        while self._heap and self._heap[0][1] not in self._deadlines:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def passed(self, now: float) -> list[int]:
        """Return the ids whose deadline is at or before `now`, earliest first, and watch them no more."""
        ids = []
        while self.next() <= now:
            _, id = heapq.heappop(self._heap)
            del self._deadlines[id]
            ids.append(id)
        return ids
