"""``whylight bench``: puts a server under load and says how it bears it; knows nothing of how the load is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whylight.cli.parameters import (
    as_dictionary,
    connection_settings,
    given_credentials,
    json_option,
    method_option,
    model_option,
    read_key_value,
    server_options,
    target_option,
)

if TYPE_CHECKING:
    from whylight.calls import MethodCall
    from whylight.cli.load.report import Report
    from whylight.cli.load.spec import Kind
    from whylight.target import Target

_SIZE = "500x375"
"""Of the picture that is sent when none is given: what photographs of ImageNet have on average."""

_SETTLE = 1.0
_CALLS = 200
_OUTPUTS = ("map", "picture", "boxes")


def _read_size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not cross or not (width.isdecimal() and height.isdecimal()) or 0 in (int(width), int(height)):
        raise click.BadParameter(f"{text!r} is not WIDTHxHEIGHT")
    return int(width), int(height)


def _read_mix(text: str) -> list[tuple[tuple[str, ...], float]]:
    from whylight.cli.load.spec import read_mix

    try:
        return read_mix(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("bench")
@click.argument("images", type=click.Path(exists=True, dir_okay=False), nargs=-1)
@server_options(required=True)
@model_option
@method_option
@click.option(
    "--mix",
    type=_read_mix,
    metavar="METHOD=SHARE,…",
    help="Calls of several kinds in place of -M, such as grad-cam=3,occlusion=1; a+b=1 asks one call for both.",
)
@target_option
@click.option(
    "-O",
    "--option",
    "options",
    type=read_key_value,
    metavar="[METHOD.]KEY=VALUE",
    multiple=True,
    help="Option of one method, or of all; the value is read as JSON, or else as text. Repeatable.",
)
@click.option(
    "--size", "sizes", type=_read_size, metavar="WxH", multiple=True, help=f"Make pictures. Repeatable. [{_SIZE}]"
)
@click.option("--inputs", type=click.IntRange(1), default=1, show_default=True, help="Pictures in each call.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Calls per second on average: an open loop.")
@click.option("--concurrency", type=click.IntRange(1), default=16, show_default=True, help="Calls at the same time.")
@click.option("--calls", type=click.IntRange(1), help=f"Calls in all. [{_CALLS}, unless --duration is given]")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Seconds to go on. [10 with --rate]")
@click.option(
    "--warm-up", type=click.IntRange(0), help="Calls before, not counted. As many as at the same time if left out."
)
@click.option(
    "--settle", type=click.FloatRange(0), help=f"Seconds of load before counting. [{_SETTLE:g} of a duration]"
)
@click.option(
    "--deadline",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds a call may take.",
)
@click.option("--stream", is_flag=True, help="Send calls as requests of open StreamExplain calls.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Client processes.")
@click.option("--connections", type=click.IntRange(1, 64), default=1, show_default=True, help="Of each process.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of arrivals, kinds and pictures.")
@click.option(
    "--output",
    "kinds",
    type=click.Choice(_OUTPUTS),
    multiple=True,
    help="What to ask for. Repeatable. A native map when left out.",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to this JSON file.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw them into this PNG, SVG or PDF.")
@json_option
def command(
    images: tuple[str, ...],
    model: str,
    methods: tuple[str, ...],
    mix: list[tuple[tuple[str, ...], float]] | None,
    targets: tuple[Target, ...],
    options: tuple[tuple[str, Any], ...],
    sizes: tuple[tuple[int, int], ...],
    inputs: int,
    rate: float | None,
    concurrency: int,
    calls: int | None,
    duration: float | None,
    warm_up: int | None,
    settle: float | None,
    deadline: float,
    stream: bool,
    processes: int,
    connections: int,
    seed: int,
    kinds: tuple[str, ...],
    save: Path | None,
    plot: Path | None,
    as_json: bool,
    **connection: Any,
) -> int:
    """Put a server under load and report throughput, latencies, batch sizes and errors.

    Sends the IMAGES in turns, or pictures that it makes. With --rate in an open loop: calls come at random times,
    whatever the server does, and latency counts from when a call was due. Otherwise in a closed loop: each of
    --concurrency callers sends its next call when it has the answer to the last one. Calls are not tried again, so that
    every refusal is counted. -M a -M b asks each call for both; --mix sends calls of several kinds.

    The exit code is 1 when no call succeeded.
    """
    from whylight.cli import printing
    from whylight.cli.load.spec import Load, processes_for
    from whylight.cli.load.together import put_under_load

    if rate is not None and calls is not None:
        raise click.UsageError("an open loop goes on for a --duration; --calls is for a closed one")
    if calls is not None and duration is not None:
        raise click.UsageError("give either --calls or --duration")
    if rate is not None and duration is None:
        duration = 10.0
    if duration is None and calls is None:
        calls = _CALLS
    connection_settings(**connection)  # refuses what would not be safe, before anything is started
    pictures = [Path(image).read_bytes() for image in images]
    if sizes or not pictures:
        from whylight.cli.load.pictures import synthetic

        made = sizes or (_read_size(_SIZE),)
        pictures += [synthetic(width, height, seed + number) for number, (width, height) in enumerate(made)]
    wanted = mix or [(tuple(name for names in methods for name in names.split(",")), 1.0)]
    sent = [
        _kind(_calls(asked, as_dictionary(options)), share, pictures, inputs, model, targets, kinds)
        for asked, share in wanted
    ]
    load = Load(
        {**connection, "credentials": vars(given_credentials())},
        tuple(sent),
        rate,
        concurrency,
        calls,
        duration,
        (_SETTLE if settle is None else settle) if duration is not None else 0.0,
        concurrency if warm_up is None else warm_up,
        deadline,
        connections,
        stream,
        processes_for(processes, concurrency if rate is None else processes, calls),
        seed,
    )
    with printing.waiting(f"calling {load.server}"):
        report = put_under_load(load)
    if save is not None:
        save.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        from whylight.cli.load.plot import draw

        draw(report, plot)
    if as_json:
        printing.print_json(report.as_json())
    else:
        _print(report)
    return 0 if report.succeeded else 1


def _calls(methods: tuple[str, ...], options: dict[str, Any]) -> list[MethodCall]:
    """Return the methods of a call with their options: those of all methods, and over them those of their own."""
    from whylight.calls import MethodCall

    of_all = {key: value for key, value in options.items() if "." not in key}
    return [
        MethodCall(
            method,
            of_all
            | {key.removeprefix(f"{method}."): value for key, value in options.items() if key.startswith(f"{method}.")},
        )
        for method in methods
    ]


def _kind(
    methods: list[MethodCall],
    share: float,
    pictures: list[bytes],
    inputs: int,
    model: str,
    targets: tuple[Target, ...],
    outputs: tuple[str, ...],
) -> Kind:
    """Return calls of one kind: one request for each picture to begin with, the next ones behind it."""
    from whylight.cli.load.spec import Kind
    from whylight.client.requests import Request, build_request
    from whylight.outputs import BoxesOutput, MapOutput, PictureOutput

    made = {"map": MapOutput, "picture": PictureOutput, "boxes": BoxesOutput}
    asked = [made[output]() for output in dict.fromkeys(outputs)]
    requests = []
    for first in range(len(pictures)):
        several = [pictures[(first + offset) % len(pictures)] for offset in range(inputs)]
        request = Request(several, methods, model, targets or None, outputs=asked)
        requests.append(build_request(request).SerializeToString())
    return Kind("+".join(method.name for method in methods), share, tuple(requests))


def _print(report: Report) -> None:
    from whylight.cli import printing

    facts = report.as_json()
    how = f"{facts['rate']:g} a second" if facts["loop"] == "open" else f"{facts['concurrency']} at a time"
    rows = [
        ("calls", f"{facts['calls']}, {how}, in {facts['seconds']:.2f} s, from {facts['processes']} processes"),
        ("succeeded", f"{facts['succeeded']}"),
        ("throughput", f"{facts['throughput']:.1f} calls/s"),
    ]
    for name in ("latency", "queue_time", "compute_time"):
        if facts[name]:
            rows.append((name.replace("_", " "), _times(facts[name])))
    if len(facts["kinds"]) > 1:
        for name, kind in facts["kinds"].items():
            rows.append(
                (f"  {name}", f"{kind['calls']} calls; {_times(kind['latency']) if kind['latency'] else 'none'}")
            )
    if facts["batch_sizes"]:
        sizes = ", ".join(f"{size}: {count}" for size, count in facts["batch_sizes"].items())
        rows.append(("batch size", f"mean {facts['mean_batch_size']:.1f} ({sizes})"))
    if facts["loop"] == "open":
        rows.append(("sent late by", _times(facts["lag"])))
    for name, failure in facts["failures"].items():
        told = f", {failure['with_retry_after']} told when to come again" if failure["with_retry_after"] else ""
        rows.append((f"failed: {name}", f"{failure['count']}{told}; after {_times(failure['latency'])}"))
    if facts["unanswered"] or facts["answered_twice"]:
        rows.append(("NOT ONE ANSWER", f"{facts['unanswered']} calls with none, {facts['answered_twice']} with two"))
    printing.print_table((report.load.server, ""), rows)


def _times(times: dict[str, float]) -> str:
    return ", ".join(f"{key} {value * 1e3:.1f}" for key, value in times.items()) + " ms"
