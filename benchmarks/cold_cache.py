"""Inputs that no cache holds when their turn comes, and a clock for a GPU; knows not what is computed of them.

Every call gets the next of several equal sets of inputs, so many that the first has left the last-level cache when it
comes round again. The code of a call stays warm, as it is in a server; its inputs come from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

_MOST_SETS = 512  # inputs so small that more were needed cost nothing to read
_BURST_SECONDS = 1e-3  # what lies between two events of a GPU is not told apart below some microseconds
_MOST_CALLS = 100


def cache_bytes(device: torch.device) -> int:
    """Return the size of the last-level cache, 32 MiB where it cannot be found out."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes), default=32 << 20)


def sets_needed(bytes_of_one: int, device: torch.device) -> int:
    """Return how many sets of inputs there must be for each to be cold when its turn comes again."""
    return min(_MOST_SETS, 1 + max(1, -(-2 * cache_bytes(device) // max(bytes_of_one, 1))))


def on_cold_inputs(
    contestants: dict[str, Callable[..., object]], sets: Sequence[tuple[Tensor, ...]]
) -> dict[str, Callable[[], object]]:
    """Return the contestants as functions without arguments, each call of any of which takes the next set."""
    following = cycle(sets)
    return {name: lambda run=run: run(*next(following)) for name, run in contestants.items()}


def gpu_seconds(run: Callable[[], object]) -> float:
    """Return the seconds of a call among as many in a row as fill a millisecond: launches overlap with kernels."""
    once = _between_events(run, 1)
    return _between_events(run, max(1, min(_MOST_CALLS, round(_BURST_SECONDS / max(once, 1e-6)))))


def _between_events(run: Callable[[], object], calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / calls
