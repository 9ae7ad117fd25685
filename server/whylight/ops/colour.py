"""Colour tables by name, as matplotlib has them; knows nothing of maps."""

from __future__ import annotations

import difflib
import functools

import torch
from torch import Tensor

from whylight.errors import InvalidInput


@functools.lru_cache(maxsize=64)
def colour_table(name: str) -> Tensor:
    """Return matplotlib's colour map `name` as a table ``[256, 3]`` uint8, which callers share and must not write to.

    Raises InvalidInput (OUTPUT_INVALID, field ``picture.colour_map``) for a name that matplotlib has not.
    """
    import matplotlib  # here, because a process that colours nothing need not load it

    if name not in matplotlib.colormaps:
        close = difflib.get_close_matches(name, list(matplotlib.colormaps), n=3)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise InvalidInput(
            f"unknown colour map {name[:64]!r}{hint}", reason="OUTPUT_INVALID", field="picture.colour_map"
        )
    table = matplotlib.colormaps[name].resampled(256)(range(256), bytes=True)
    return torch.from_numpy(table[:, :3].copy())
