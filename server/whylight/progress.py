"""How far the work on one input has come, as callers are told; knows neither who reports nor how it travelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class Progress:
    """A method has done `done` of `total`, in units of its choice.

    `input_index` and `method_index` count from 0 in the order of the call. `maps` are those so far, float32 `[h, w]`,
    one for each target, where they were asked for and the method has them; empty otherwise.
    """

    input_index: int
    method: str
    method_index: int
    done: int
    total: int
    maps: tuple[npt.NDArray[Any], ...] = ()
