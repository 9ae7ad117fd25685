"""Times the operators against eager torch, bmm and torch.compile: ``python benchmarks/ops.py [--device cuda]``.

Every contestant of a case takes its turn on inputs that are no longer in a cache, beside a copy that moves the bytes
which must be moved at least, and beside writing the result where that is most of it. Prints a table as markdown, each
number a median over turns, then which goals of issue 3 were reached; keeps all of it under benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import plain_torch
import torch
from allocated import peak_bytes
from cold_cache import gpu_seconds, on_cold_inputs, sets_needed
from environment import describe
from interleaved import interleaved, median_ratio, wall_seconds
from op_cases import Case, cases
from op_table import HEADER, cells, goal_lines
from torch import Tensor

from whylight import ops

RESULTS = Path(__file__).parent / "results"


def copies(traffic: int, device: torch.device) -> Callable[[], object]:
    """Return a copy that moves `traffic` bytes, half of them read and half written, on cold memory."""
    pairs = [
        tuple(torch.ones(max(1, traffic // 2), dtype=torch.uint8, device=device) for _ in range(2))
        for _ in range(sets_needed(traffic, device))
    ]
    following = cycle(pairs)

    def copy() -> None:
        source, destination = next(following)
        destination.copy_(source)

    return copy


def measure(case: Case, device: torch.device, seconds: float, *, compiled: bool) -> dict[str, Any]:
    """Return the row of a case: times, what the copy took, ratios to ours, memory, goals."""
    contestants: dict[str, Callable[..., object]] = dict(case.contestants)
    if compiled:
        torch.compiler.reset()
        function: Callable[..., Tensor] = torch.compile(case.compiled, dynamic=False)
        contestants["compile"] = plain_torch.with_gradient(function) if case.gradient else function
    with contextlib.nullcontext() if case.gradient else torch.inference_mode():
        one = case.inputs()
        sets = [one]
        sets += [case.inputs() for _ in range(sets_needed(sum(t.nbytes for t in one), device) - 1)]
        runs = on_cold_inputs(contestants, sets) | {"copy": copies(case.traffic, device)}
        if case.result:
            runs["write"] = partial(torch.full, case.result[0], 1, dtype=case.result[1], device=device)
        times = interleaved(runs, seconds, clock=gpu_seconds if device.type == "cuda" else wall_seconds)
        memory = {name: peak_bytes(runs[name], device) for name in contestants}
    ratios = {name: median_ratio(times, name, "ours") for name in times}
    return {
        "operator": case.operator,
        "case": case.name,
        "bytes": case.traffic,
        "turns": len(times["ours"]),
        "milliseconds": {name: statistics.median(spent) * 1e3 for name, spent in times.items()},
        "least_milliseconds": {name: min(spent) * 1e3 for name, spent in times.items()},
        "gigabytes_per_second": case.traffic / statistics.median(times["ours"]) / 1e9,
        "times_ours": ratios,
        "peak_bytes": memory,
        "goals": [
            {"contestant": g.contestant, "at_least": g.times, "reached": ratios[g.contestant] >= g.times}
            for g in case.goals
            if g.contestant in ratios
        ],
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batches", type=int, nargs="+", help="1 and 64, on CUDA 256 too, if left out")
    parser.add_argument("--op", help="only cases whose operator or name has this regular expression in it")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    parser.add_argument("--threads", type=int, help="of torch; all cores if left out")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes most of the time")
    parser.add_argument("--quick", action="store_true", help="one image, five turns, nothing compiled, nothing kept")
    parser.add_argument("--json", type=Path, help="file to keep the rows in, if not <device>-ops-<date>.json")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("ops.py: torch has no CUDA device")
    torch.manual_seed(0)
    batches = arguments.batches or ([1] if arguments.quick else [1, 64, 256] if device.type == "cuda" else [1, 64])
    seconds = 0.0 if arguments.quick else arguments.seconds
    facts = describe() | {"measured_on": device.type, "native_operators": ops.native_status().description}
    for name, value in facts.items():
        print(f"{name}: {value}")
    print("\nours in ms and GB/s; the others in how many times as long as ours; memory at the peak, eager → ours\n")
    print("\n".join(HEADER))
    rows = []
    for case in cases(batches, device):
        if arguments.op and not re.search(arguments.op, f"{case.operator} {case.name}"):
            continue
        rows.append(measure(case, device, seconds, compiled=not (arguments.no_compile or arguments.quick)))
        print(f"| {' | '.join(cells(rows[-1]))} |", flush=True)
    lines = goal_lines(rows)
    print("\n" + "\n".join(lines))
    kept = arguments.json
    if kept is None and not arguments.quick and not arguments.op:
        hardware = facts["device"] if device.type == "cuda" else "cpu"
        kept = RESULTS / f"{_slug(hardware)}-ops-{datetime.now(timezone.utc):%Y-%m-%d}.json"
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"environment": facts, "rows": rows, "goals": lines}, indent=1) + "\n")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()
