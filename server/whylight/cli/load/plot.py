"""Draws a report of a load: how latencies spread, what came when, how large the batches were; measures nothing."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from whylight.cli.load.report import Report

_BINS = 60


def draw(report: Report, path: Path, title: str = "") -> None:
    """Write a picture of the report to `path`, in the format of its suffix.

    Raises:
        ValueError: the suffix is of no format that matplotlib writes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4), layout="constrained")
    FigureCanvasAgg(figure)
    spread, course, batches = figure.subplots(1, 3)
    _draw_spread(spread, report)
    _draw_course(course, report)
    _draw_batches(batches, report)
    figure.suptitle(title or f"{report.load.server}: {report.succeeded} of {len(report.tally.due)} calls answered")
    figure.savefig(path)


def _draw_spread(axes: Any, report: Report) -> None:
    """Latency at each percentile, the high ones drawn as wide as the low ones."""
    for index, kind in enumerate(report.load.kinds):
        ordered = sorted(report.latencies(index))
        if ordered:
            nines = [-math.log10(1 - rank / (len(ordered) + 1)) for rank in range(1, len(ordered) + 1)]
            axes.plot(nines, [latency * 1e3 for latency in ordered], label=kind.name)
    axes.set_xticks([0, 0.30103, 1, 2, 3], ["0", "50", "90", "99", "99.9"])
    axes.set_xlabel("per cent of the calls")
    axes.set_ylabel("latency, ms")
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)


def _draw_course(axes: Any, report: Report) -> None:
    """Calls that ended in each moment, answered and failed."""
    tally = report.tally
    ends = [due + latency - report.begin for due, latency in zip(tally.due, tally.latency, strict=True)]
    width = max(max(ends, default=1.0) / _BINS, 1e-3)
    for place, name in [(-1, "answered"), *enumerate(tally.failures)]:
        count = Counter(int(end / width) for end, failure in zip(ends, tally.failure, strict=True) if failure == place)
        bins = range(max(count, default=0) + 1)
        axes.plot([bin * width for bin in bins], [count[bin] / width for bin in bins], label=name)
    axes.set_xlabel("seconds")
    axes.set_ylabel("ends of calls per second")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)


def _draw_batches(axes: Any, report: Report) -> None:
    sizes = Counter(report.tally.batch_sizes)
    total = sum(sizes.values())
    axes.bar(list(sizes), [100 * count / total for count in sizes.values()])
    axes.set_xlim(0, max(sizes, default=1) + 1)
    axes.set_xlabel("batch size")
    axes.set_ylabel("per cent of the explanations")
    axes.grid(alpha=0.3)
