"""Puts the tables of kept runs of benchmarks/methods.py into docs/explanation/how-fast.md; measures nothing.

``python benchmarks/method_page.py [JSON ...]`` writes the part between the two ``measured`` comments of the page, of
the runs that the first names or of other ones: of a method that several have, the row of the last counts. ``--check``
fails if that would change anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measured_part import ROOT, main
from method_table import HEADER, cells, goal_lines

PAGE = ROOT / "docs" / "explanation" / "how-fast.md"


def part(files: Sequence[Path]) -> list[str]:
    """Return the lines of the page that tell of runs."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    told = []
    for file in files:
        run = json.loads((ROOT / file).read_text())
        facts = run["environment"]
        load = facts["load_average"]
        peers = ", ".join(f"{name} {facts['versions'][name]}" for name in ("captum", "grad-cam", "torchcam", "zennit"))
        told.append(
            f"- `{facts['command']}`, {facts['time'][:10]}, {facts['processor']}, {facts['model']} at "
            f"{facts['size']} x {facts['size']}, torch {facts['versions']['torch']}, {peers}, load average "
            f"{min(load):.0f} to {max(load):.0f}: [{file.name}](../../{file})"
        )
        rows |= {(row["method"], row["batch"]): row for row in run["rows"]}
    goals = goal_lines(list(rows.values()))
    missed = [line for line in goals[1:] if line.startswith("- not")]
    return [
        *told,
        "",
        *HEADER,
        *(f"| {' | '.join(cells(row))} |" for row in rows.values()),
        "",
        f"{goals[0]}. The others:",
        "",
        *missed,
    ]


if __name__ == "__main__":
    main(PAGE, part, about=__doc__)
