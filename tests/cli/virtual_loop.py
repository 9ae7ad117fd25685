"""An event loop whose time passes only while it would wait, so that no test of times depends on the machine."""

from __future__ import annotations

import asyncio
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while it would wait, and then at once; a clock of the load's, too."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector
        select = selector.select

        def select_at_once(timeout: float | None) -> Any:
            self._now += timeout or 0.0
            return select(0)

        selector.select = select_at_once

    def time(self) -> float:
        return self._now

    def now(self) -> float:
        return self._now

    async def until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, when - self._now))
