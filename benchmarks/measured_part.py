"""The part of a page that tells of kept runs, between two ``measured`` comments; knows not what it says."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

_PART = re.compile(r"<!-- measured: (?P<files>[^>]+) -->\n.*?<!-- end of measured -->\n", re.DOTALL)


def main(
    page: Path, part: Callable[[Sequence[Path]], list[str]], *, about: str | None, most: int | None = None
) -> None:
    """Write or check a page: what `part` says of runs, which are files below the repository's root.

    The command line names the runs, at most `most` of them; those that the page names now, if left out. `about` is the
    description that ``--help`` shows.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("json", type=Path, nargs="*", help="files under benchmarks/results/; the page's if left out")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if most is not None and len(arguments.json) > most:
        parser.error(f"the page tells of {most} run, not of {len(arguments.json)}")
    before = page.read_text()
    found = _PART.search(before)
    if not found:
        raise SystemExit(f"{page} has no part between two measured comments")
    named = [file.resolve().relative_to(ROOT) for file in arguments.json]
    files = named or [Path(name) for name in found["files"].split()]
    told = ["<!-- measured: " + " ".join(map(str, files)) + " -->", *part(files), "<!-- end of measured -->"]
    after = before[: found.start()] + "\n".join(told) + "\n" + before[found.end() :]
    if arguments.check and after != before:
        raise SystemExit(f"{page} does not tell what {', '.join(map(str, files))} hold: run {parser.prog}")
    page.write_text(after)
