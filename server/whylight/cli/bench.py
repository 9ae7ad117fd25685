"""``whylight bench``: puts a server under load and says how it bears it; knows nothing of how the load is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from whylight.cli.parameters import (
    as_dictionary,
    connection_settings,
    json_option,
    method_option,
    model_option,
    options_option,
    server_options,
    target_option,
)

if TYPE_CHECKING:
    from whylight.cli.load import Report
    from whylight.target import Target


@click.command("bench")
@click.argument("image", type=click.Path(exists=True, dir_okay=False))
@server_options(required=True)
@model_option
@method_option
@target_option
@options_option
@click.option("--concurrency", type=click.IntRange(1), default=16, show_default=True, help="Calls at the same time.")
@click.option("--calls", type=click.IntRange(1), default=200, show_default=True, help="Calls in all.")
@click.option(
    "--warm-up", type=click.IntRange(0), help="Calls before, not counted. As many as at the same time if left out."
)
@click.option(
    "--deadline",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds a call may take.",
)
@click.option(
    "--output",
    "kinds",
    type=click.Choice(["map", "picture", "boxes"]),
    multiple=True,
    help="What to ask for. Repeatable. A native map when left out.",
)
@json_option
def command(
    image: str,
    server: str,
    tls: bool,
    ca: str | None,
    model: str,
    methods: tuple[str, ...],
    targets: tuple[Target, ...],
    options: tuple[tuple[str, Any], ...],
    concurrency: int,
    calls: int,
    warm_up: int | None,
    deadline: float,
    kinds: tuple[str, ...],
    as_json: bool,
) -> int:
    """Send the same IMAGE again and again, a fixed number of calls at a time, and report throughput and latency.

    Each of --concurrency callers sends its next call when it has the answer to the last one (a closed loop). Calls are
    not tried again, so that every refusal is counted. The exit code is 1 when no call succeeded.
    """
    import asyncio
    from pathlib import Path

    from whylight.cli import load, printing
    from whylight.client import Request
    from whylight.outputs import BoxesOutput, MapOutput, PictureOutput

    made = {"map": MapOutput, "picture": PictureOutput, "boxes": BoxesOutput}
    request = Request(
        Path(image).read_bytes(),
        methods,
        model,
        targets or None,
        as_dictionary(options),
        [made[kind]() for kind in dict.fromkeys(kinds)],
    )
    settings = connection_settings(server, tls, ca)
    with printing.progress("calling", calls) as bar:
        report = asyncio.run(
            load.closed_loop(
                server,
                settings,
                request,
                concurrency=concurrency,
                calls=calls,
                warm_up=concurrency if warm_up is None else warm_up,
                deadline=deadline,
                on_call=lambda: bar.advance(bar.task_ids[0]),
            )
        )
    if as_json:
        printing.print_json(report.as_json())
    else:
        _print(report)
    return 0 if report.succeeded else 1


def _print(report: Report) -> None:
    from whylight.cli import printing

    facts = report.as_json()
    rows = [
        ("calls", f"{facts['calls']}, {facts['concurrency']} at a time, in {facts['seconds']:.2f} s"),
        ("succeeded", f"{facts['succeeded']}"),
        ("throughput", f"{facts['throughput']:.1f} calls/s"),
    ]
    for name in ("latency", "queue_time", "compute_time"):
        if facts[name]:
            times = ", ".join(f"{key} {value * 1e3:.1f}" for key, value in facts[name].items())
            rows.append((name.replace("_", " "), f"{times} ms"))
    if facts["batch_sizes"]:
        sizes = ", ".join(f"{size}: {count}" for size, count in facts["batch_sizes"].items())
        rows.append(("batch size", f"mean {facts['mean_batch_size']:.1f} ({sizes})"))
    rows += [(f"failed: {name}", f"{count}") for name, count in facts["errors"].items()]
    printing.print_table((report.server, ""), rows)
