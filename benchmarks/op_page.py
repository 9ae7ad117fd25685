"""Puts the table of a kept run of benchmarks/ops.py into docs/explanation/operators.md; measures nothing.

``python benchmarks/op_page.py [JSON]`` writes the part between the two ``measured`` comments of the page, of the run
that the first names or of another one; ``--check`` fails if that would change anything.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from op_table import HEADER, cells

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "operators.md"
PART = re.compile(r"<!-- measured: (?P<file>\S+) -->\n.*?<!-- end of measured -->\n", re.DOTALL)


def part(file: Path) -> str:
    """Return the part of the page that tells of a run, comments included."""
    run = json.loads((ROOT / file).read_text())
    facts = run["environment"]
    lines = [
        f"<!-- measured: {file} -->",
        f"`{facts['command']}`, {facts['time'][:10]}, {facts['processor']}, torch {facts['versions']['torch']}, "
        f"Python {facts['python']}; all of it in [{file.name}](../../{file}).",
        "",
        *HEADER,
        *(f"| {' | '.join(cells(row))} |" for row in run["rows"]),
        "",
        f"{run['goals'][0]}:",
        "",
        *run["goals"][1:],
        "<!-- end of measured -->",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, nargs="?", help="a file under benchmarks/results/; the page's if left out")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    before = PAGE.read_text()
    found = PART.search(before)
    if not found:
        raise SystemExit(f"{PAGE} has no part between two measured comments")
    file = arguments.json.resolve().relative_to(ROOT) if arguments.json else Path(found["file"])
    after = before[: found.start()] + part(file) + before[found.end() :]
    if arguments.check and after != before:
        raise SystemExit(f"{PAGE} does not tell what {file} holds: run python benchmarks/op_page.py")
    PAGE.write_text(after)


if __name__ == "__main__":
    main()
