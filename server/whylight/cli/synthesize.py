"""``whylight synthesize``: pictures of what a model has learned; knows no method and no way to a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whylight.cli.parameters import (
    as_dictionary,
    json_option,
    model_option,
    options_option,
    other_option,
    priority_option,
    server_options,
    target_option,
)

if TYPE_CHECKING:
    from whylight.cli.long_work import Made
    from whylight.target import Target

_FRAME_MILLISECONDS = 120
_LAST_MILLISECONDS = 1500


def read_size(text: str) -> tuple[int, int]:
    """Read ``WIDTHxHEIGHT``, or one number for a square, as (height, width).

    Raises:
        BadParameter: it is neither.
    """
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text)
    if not match:
        raise click.BadParameter(f"{text!r} is not WIDTHxHEIGHT")
    return int(match[2] or match[1]), int(match[1])


@click.command("synthesize")
@click.argument("method")
@model_option
@target_option
@click.option("--picture", "pictures", multiple=True, help="Picture that the method takes, in its order. Repeatable.")
@options_option
@click.option("-o", "--out", help="Where to put the pictures: a file for one target, a folder for several.")
@click.option("--gif", help="Where to put the course of the work; with several targets, numbered.")
@click.option("--every", type=click.IntRange(1), default=8, show_default=True, help="Steps between two frames of it.")
@click.option("--size", type=read_size, metavar="WxH", help="Size of the pictures. The model's own when left out.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed, for every target.")
@click.option("--top", type=click.IntRange(0), default=5, show_default=True, help="How many predictions to show.")
@server_options()
@priority_option
@click.option("--device", help="Device to compute on, such as cuda:0; without --server only.")
@other_option
@json_option
def command(
    method: str,
    model: str,
    targets: tuple[Target, ...],
    pictures: tuple[str, ...],
    options: tuple[tuple[str, Any], ...],
    out: str | None,
    gif: str | None,
    every: int,
    size: tuple[int, int] | None,
    seed: int | None,
    top: int,
    server: str | None,
    tls: bool,
    ca: str | None,
    device: str | None,
    other: dict[str, str],
    as_json: bool,
) -> int:
    """Make pictures of what a model has learned, here or on a server.

    \b
    whylight synthesize activation-maximization -t 281 -o cat.png --gif course.gif
    whylight synthesize style-transfer --picture cat.jpg --picture waves.jpg -o cat.png
    """
    from whylight.cli import long_work, printing, saving
    from whylight.outputs import PictureOutput

    if server and (device or other):
        raise click.UsageError("--device and --other are for work done here; a server has its own devices and models")
    place = saving.place_for(out, count=max(1, len(targets)))
    task = long_work.LongTask(
        method=method,
        targets=targets,
        pictures=pictures,
        model=model,
        options=as_dictionary(options),
        seed=seed,
        others=other,
        size=size,
        outputs=[PictureOutput(format=place.format)] if place else [PictureOutput()],
        preview_interval=every if gif else 0,
        top=top,
    )
    made = long_work.synthesise(task, long_work.Place(server, tls, ca, device))
    answers = [saving.answer_of(outcome, f"target {outcome.target_index}") for outcome in made.outcomes]
    saved = saving.save(answers, place)
    courses = _save_courses(made, Path(gif)) if gif else []
    if as_json:
        printing.print_json({**saving.as_json(answers, saved), "courses": [str(path) for path in courses]})
    else:
        saving.print_answers(answers, saved)
    return 1 if any(answer.error is not None for answer in answers) else 0


def _save_courses(made: Made, path: Path) -> list[Path]:
    """Write the course of each target as a GIF, its last frame for longer, and return where each went.

    Raises:
        ClickException: a file cannot be written.
    """
    paths = []
    for index, course in sorted(made.course.items()):
        frames = [preview.picture.image().convert("RGB") for preview in course]
        own = path if len(made.course) == 1 else path.with_stem(f"{path.stem}_{index}")
        durations = [_FRAME_MILLISECONDS] * (len(frames) - 1) + [_LAST_MILLISECONDS]
        try:
            frames[0].save(own, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
        except OSError as error:
            raise click.ClickException(f"{own}: {error.strerror or error}") from None
        paths.append(own)
    return paths
