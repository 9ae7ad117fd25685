"""The rows of benchmarks/methods.py as markdown, and which goals they reach; measures nothing."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    "method",
    "batch",
    "samples",
    "ours ms",
    "peer's processor time / ours (wall)",
    "network's share of ours",
    "peak MiB, ours / peers",
    "maps",
)
HEADER = (f"| {' | '.join(COLUMNS)} |", f"|---|{'---:|' * 3}---|---:|---:|---|")


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row as text; peers come in the order of their times, and so do their peaks of memory."""
    wall = row["times_ours"]
    ratios = sorted(row["times_ours_by_processor"].items(), key=lambda item: item[1])
    peaks = row["peak_mib"]
    return [
        row["method"],
        str(row["batch"]),
        str(row["samples"]),
        f"{row['milliseconds']['whylight']:.1f}",
        ", ".join(f"{library} **{ratio:.2f}** ({wall[library]:.2f})" for library, ratio in ratios),
        f"{row['network_share']:.0%}",
        " / ".join(f"{peaks[name]:.0f}" for name in ("whylight", *dict(ratios)) if name in peaks),
        "; ".join(f"{library}: {_agreement(found)}" for library, found in row["agreement"].items()),
    ]


def goal_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return for each row whether its goals are reached; a missed one says how far the network alone would let it."""
    lines = []
    for row in rows:
        what = f"{row['method']}, batch {row['batch']}"
        fastest = row["fastest_peer"]
        ratio = row["times_ours_by_processor"][fastest]
        told = f"{fastest} takes {ratio:.2f} times as much processor time as ours, goal {row['goal']:g}"
        if not row["reached"]:
            told += f"; {row['fastest_over_network']:.2f} times as much as the plain passes of the network alone"
        lines.append(f"- {'reached' if row['reached'] else 'not reached'}: {what}: {told}")
        if row["peak_mib"]:
            mine = row["peak_mib"]["whylight"]
            peers = {name: peak for name, peak in row["peak_mib"].items() if name != "whylight"}
            least = min(peers, key=peers.__getitem__)
            reached = "reached" if mine < peers[least] else "not reached"
            lines.append(f"- {reached}: {what}: peak memory {mine:.0f} MiB, {least} {peers[least]:.0f}")
    missed = sum(line.startswith("- not") for line in lines)
    return [f"{len(lines) - missed} of {len(lines)} goals reached", *lines]


def _agreement(found: dict[str, Any]) -> str:
    if found["same"] == "same":
        return f"differ by {found['largest_difference']:.1e}"
    why = "each draws its own" if found["same"] == "drawn" else found["same"]
    return f"correlate {found['correlation']:.3f} ({why})"
