"""Puts the tables of kept runs of benchmarks/methods.py into docs/explanation/how-fast.md; measures nothing.

``python benchmarks/method_page.py [JSON ...]`` writes the part between the two ``measured`` comments of the page, of
the runs that the first names or of other ones: of a method that several have, the row of the last counts. ``--check``
fails if that would change anything.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from method_table import HEADER, cells, goal_lines

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "how-fast.md"
PART = re.compile(r"<!-- measured: (?P<files>[^>]+) -->\n.*?<!-- end of measured -->\n", re.DOTALL)


def part(files: list[Path]) -> str:
    """Return the part of the page that tells of runs, comments included."""
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
    lines = [
        f"<!-- measured: {' '.join(map(str, files))} -->",
        *told,
        "",
        *HEADER,
        *(f"| {' | '.join(cells(row))} |" for row in rows.values()),
        "",
        f"{goals[0]}. The others:",
        "",
        *missed,
        "<!-- end of measured -->",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, nargs="*", help="files under benchmarks/results/; the page's if left out")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    before = PAGE.read_text()
    found = PART.search(before)
    if not found:
        raise SystemExit(f"{PAGE} has no part between two measured comments")
    named = [file.resolve().relative_to(ROOT) for file in arguments.json]
    files = named or [Path(name) for name in found["files"].split()]
    after = before[: found.start()] + part(files) + before[found.end() :]
    if arguments.check and after != before:
        raise SystemExit(f"{PAGE} does not tell what {', '.join(map(str, files))} hold: run benchmarks/method_page.py")
    PAGE.write_text(after)


if __name__ == "__main__":
    main()
