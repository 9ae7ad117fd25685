"""Who is told of the steps of long work, and how often; knows neither methods nor messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whylight.artifact import Picture
from whylight.outputs import PictureOutput
from whylight.render import encoded

_PREVIEW = PictureOutput()


@dataclass(frozen=True)
class Shown:
    """What there is to see of a picture on its way: pixels uint8 `[H, W, 3]`, or `[H, W]` for grey, of its own."""

    pixels: npt.NDArray[np.uint8]

    def picture(self) -> Picture:
        """Encode it. That takes long beside a step; another thread may do it."""
        return encoded(_PREVIEW, self.pixels)


class StepWatcher:
    """Someone who waits for one picture, or one inspection, and wants to know how far it is.

    Between two tellings are at least `min_interval` seconds, but for the first and the last step, which are told in any
    case. `show` is given a picture at every `preview_interval`-th step; 0 means never. Neither may block.
    """

    def __init__(
        self,
        tell: Callable[[int, int, Mapping[str, float]], None],
        show: Callable[[int, Shown], None] | None = None,
        *,
        min_interval: float = 0.25,
        preview_interval: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._show = show
        self._min_interval = min_interval
        self._preview_interval = preview_interval
        self._clock = clock
        self._told: float | None = None

    def step(
        self,
        step: int,
        total: int,
        losses: Callable[[], Mapping[str, float]],
        picture: Callable[[], Shown | None],
    ) -> None:
        """Take note of a step; `losses` and `picture` are asked only for what is told or shown."""
        if self._told is None or step == total or self._clock() >= self._told + self._min_interval:
            self._told = self._clock()
            self._tell(step, total, losses())
        if self._show is not None and self._preview_interval and step % self._preview_interval == 0:
            shown = picture()
            if shown is not None:
                self._show(step, shown)
