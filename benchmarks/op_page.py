"""Puts the table of a kept run of benchmarks/ops.py into docs/explanation/operators.md; measures nothing.

``python benchmarks/op_page.py [JSON]`` writes the part between the two ``measured`` comments of the page, of the run
that the first names or of another one; ``--check`` fails if that would change anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from measured_part import ROOT, main
from op_table import HEADER, cells

PAGE = ROOT / "docs" / "explanation" / "operators.md"


def part(files: Sequence[Path]) -> list[str]:
    """Return the lines of the page that tell of a run."""
    (file,) = files
    run = json.loads((ROOT / file).read_text())
    facts = run["environment"]
    return [
        f"`{facts['command']}`, {facts['time'][:10]}, {facts['processor']}, torch {facts['versions']['torch']}, "
        f"Python {facts['python']}; all of it in [{file.name}](../../{file}).",
        "",
        *HEADER,
        *(f"| {' | '.join(cells(row))} |" for row in run["rows"]),
        "",
        f"{run['goals'][0]}:",
        "",
        *run["goals"][1:],
    ]


if __name__ == "__main__":
    main(PAGE, part, about=__doc__, most=1)
