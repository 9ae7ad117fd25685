"""Joins what benchmarks/gpu.sh measured into one JSON file and one page of tables; measures nothing.

``python benchmarks/gpu_report.py FOLDER RESULTS "NAME OUTCOME SECONDS"...`` reads ops.json and grad_cam.json, as far as
they are there, from FOLDER and writes RESULTS.json and RESULTS.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from environment import describe
from op_table import HEADER, cells


def page(report: dict[str, Any]) -> str:
    """Return the tables as markdown."""
    facts = report["environment"]
    lines = [f"# {facts['device']}, {facts['time'][:10]}", "", f"torch {facts['versions']['torch']}", ""]
    lines += ["| step | outcome | seconds |", "|---|---|---:|"]
    lines += [f"| {step['name']} | {step['outcome']} | {step['seconds']} |" for step in report["steps"]]
    if ops := report["ops"]:
        lines += ["", *HEADER, *(f"| {' | '.join(cells(row))} |" for row in ops["rows"]), "", *ops["goals"]]
    if grad_cam := report["grad_cam"]:
        lines += ["", "| Grad-CAM of ResNet-50 | batch | explanations/s | time / plain forward | p50 ms |"]
        lines += ["|---|---:|---:|---:|---:|"]
        lines += [
            f"| {row['what']} | {row['batch']} | {row['explanations_per_second']:.1f} | {row['time_over_plain']:.2f} "
            f"| {row['p50_ms']:.1f} |"
            for row in grad_cam["rows"]
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read, join, write."""
    folder, results, steps = Path(sys.argv[1]), sys.argv[2], [step.split() for step in sys.argv[3:]]
    measured = {
        name: json.loads(path.read_text()) if (path := folder / f"{name}.json").is_file() else None
        for name in ("ops", "grad_cam")
    }
    report = {
        "environment": describe() | {"command": "benchmarks/gpu.sh"},
        "steps": [{"name": name, "outcome": outcome, "seconds": int(seconds)} for name, outcome, seconds in steps],
        **measured,
    }
    Path(f"{results}.json").write_text(json.dumps(report, indent=1) + "\n")
    Path(f"{results}.md").write_text(page(report))


if __name__ == "__main__":
    main()
