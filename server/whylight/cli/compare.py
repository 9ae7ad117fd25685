"""``whylight compare``: which method's maps of these pictures can be trusted most; knows no method and no metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from whylight.cli.parameters import (
    json_option,
    model_option,
    priority_option,
    read_key_value,
    server_options,
    target_option,
)

if TYPE_CHECKING:
    from whylight.target import Target


def read_names(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def read_option(text: str) -> tuple[str, str, Any]:
    """Read an option of one method or metric, ``name.key=value``.

    Raises:
        BadParameter: it is not name.key=value.
    """
    whole, value = read_key_value(text)
    name, dot, key = whole.partition(".")
    if not (name and dot and key):
        raise click.BadParameter(f"{text!r} is not NAME.KEY=VALUE, where NAME is a method or a metric")
    return name, key, value


@click.command("compare")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_option
@click.option(
    "-M",
    "--method",
    "methods",
    type=read_names,
    multiple=True,
    default=["grad-cam,layer-cam,saliency,integrated-gradients"],
    show_default=True,
    help="Methods, with commas between them. Repeatable.",
)
@click.option(
    "--metric",
    "metrics",
    type=read_names,
    multiple=True,
    default=["insertion,deletion,road"],
    show_default=True,
    help="Metrics, with commas between them. Repeatable.",
)
@target_option
@click.option(
    "-O",
    "--option",
    "options",
    type=read_option,
    metavar="NAME.KEY=VALUE",
    multiple=True,
    help="Option of a method or a metric, such as insertion.steps=20; the value is JSON, or else text. Repeatable.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False),
    help="Picture to write: all maps with their scores, side by side.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of stochastic methods and metrics.")
@server_options()
@priority_option
@click.option("--device", help="Device to compute on, such as cuda:0; without --server only.")
@json_option
def command(
    images: tuple[str, ...],
    model: str,
    methods: tuple[tuple[str, ...], ...],
    metrics: tuple[tuple[str, ...], ...],
    targets: tuple[Target, ...],
    options: tuple[tuple[str, str, Any], ...],
    out: str | None,
    seed: int | None,
    server: str | None,
    tls: bool,
    ca: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Measure the maps of several methods and rank the methods, here or on a server.

    \b
    whylight compare cat.jpg -M grad-cam,layer-cam,saliency -o compared.png
    whylight compare *.jpg -M grad-cam,rise --metric insertion,road -O insertion.steps=20 --json
    """
    from whylight.cli import comparing, contact_sheet, printing

    if server and device:
        raise click.UsageError("--device is for measuring here; a server has its own devices")
    if out is not None:
        contact_sheet.check_path(out)
    names = [name for group in methods for name in group]
    measures = [name for group in metrics for name in group]
    if not names or not measures:
        raise click.UsageError("name at least one method and one metric")
    task = comparing.Task(images, model, names, measures, targets, comparing.by_name(options, names, measures), seed)
    with printing.waiting(f"measuring {', '.join(measures)}"):
        found = (
            comparing.evaluate_there(task, server, tls, ca, pictures=out is not None)
            if server
            else comparing.evaluate_here(task, device, pictures=out is not None)
        )
    if out is not None:
        contact_sheet.draw(found, images).save(out)
    if as_json:
        printing.print_json(comparing.as_json(found, images, out))
    else:
        comparing.print_ranking(found, images)
        if out is not None:
            click.echo(out)
    return 1 if comparing.failed(found) else 0
