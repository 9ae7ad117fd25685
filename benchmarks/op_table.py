"""The rows of benchmarks/ops.py as markdown, and which goals they reach; measures nothing."""

from __future__ import annotations

from typing import Any

COLUMNS = ("ms", "GB/s", "of copy", "eager", "bmm", "compile", "one pass", "write", "MiB")
HEADER = (f"| case | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}")


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row as text: ours in milliseconds, the others as how many times as long they took."""
    ratios = row["times_ours"]
    others = [f"{ratios[name]:.2f}" if name in ratios else "" for name in COLUMNS[3:-1]]
    peak = row["peak_bytes"]
    memory = f"{peak['eager'] / 2**20:.1f} → {peak['ours'] / 2**20:.1f}"
    speed = [f"{row['milliseconds']['ours']:.3f}", f"{row['gigabytes_per_second']:.1f}", f"{ratios['copy']:.0%}"]
    return [row["case"], *speed, *others, memory]


def goal_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return what was missed, and of how many goals."""
    missed = [
        f"- not reached: {row['case']}: {goal['contestant']} takes {row['times_ours'][goal['contestant']]:.2f} times "
        f"as long as ours, not {goal['at_least']:.2f}"
        for row in rows
        for goal in row["goals"]
        if not goal["reached"]
    ]
    demanding = [
        f"- reached: {row['case']}: {goal['contestant']} {row['times_ours'][goal['contestant']]:.2f} "
        f"(at least {goal['at_least']:.2f})"
        for row in rows
        for goal in row["goals"]
        if goal["reached"] and (goal["at_least"] > 1 or goal["contestant"] in ("copy", "write", "bmm"))
    ]
    total = sum(len(row["goals"]) for row in rows)
    return [f"{total - len(missed)} of {total} goals reached", *demanding, *missed]
