"""``whylight explain``: pictures in; predictions, pictures, boxes, masks out; knows no method and no server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from whylight.cli.parameters import (
    as_dictionary,
    companion_option,
    json_option,
    method_option,
    model_option,
    options_option,
    priority_option,
    server_options,
    target_option,
)

if TYPE_CHECKING:
    from whylight.cli.saving import Folder, OneFile
    from whylight.outputs import Output
    from whylight.target import Target


@click.command("explain")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_option
@method_option
@target_option
@options_option
@companion_option
@click.option("-o", "--out", help="Where to put the pictures: a file for one, a folder for several.")
@click.option(
    "--style", type=click.Choice(["overlay", "map"]), default="overlay", show_default=True, help="What to draw."
)
@click.option("--colour-map", default="", help="Matplotlib colour map. turbo when left out; bwr for signed maps.")
@click.option(
    "--clip",
    type=click.FloatRange(0, 100, min_open=True),
    default=100.0,
    metavar="PERCENTILE",
    help="Draw what lies above this percentile of the map as if it lay just there: 99 or so for saliency and its like.",
)
@click.option(
    "--canvas",
    type=click.Choice(["input", "original"]),
    help="Draw on what the model saw, or on the whole picture. Pictures: input; boxes, masks: original, when left out.",
)
@click.option("--boxes", is_flag=True, help="Find the box around the strongest part.")
@click.option("--mask", is_flag=True, help="Cut out the strongest part, white on black: a PNG beside each picture.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of stochastic methods.")
@click.option("--top", type=click.IntRange(0), default=5, show_default=True, help="How many predictions to show.")
@server_options()
@priority_option
@click.option("--device", help="Device to compute on, such as cuda:0; without --server only.")
@json_option
def command(
    images: tuple[str, ...],
    model: str,
    methods: tuple[str, ...],
    targets: tuple[Target, ...],
    options: tuple[tuple[str, Any], ...],
    companions: tuple[tuple[str, Any], ...],
    out: str | None,
    style: str,
    colour_map: str,
    clip: float,
    canvas: str | None,
    boxes: bool,
    mask: bool,
    seed: int | None,
    top: int,
    server: str | None,
    tls: bool,
    ca: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Explain pictures, here or on a server.

    \b
    whylight explain cat.jpg -o why.png
    whylight explain *.jpg -M grad-cam -M layer-cam -t 281 -O layer=blocks.4 -o folder
    whylight explain cat.jpg --server localhost:50051 --json
    """
    from whylight.cli import explaining, printing, saving

    if server and device:
        raise click.UsageError("--device is for explaining here; a server has its own devices")
    if mask and not out:
        raise click.UsageError("--mask writes files; say where with --out")
    place = saving.place_for(out, count=len(images) * len(methods) * max(1, len(targets)))
    task = explaining.Task(
        images=images,
        model=model,
        methods=methods,
        targets=targets,
        options=as_dictionary(options),
        companions=as_dictionary(companions),
        outputs=_outputs(place, style, colour_map, clip, canvas, boxes, mask),
        seed=seed,
        top=top,
    )
    answers = explaining.explain_there(task, server, tls, ca) if server else explaining.explain_here(task, device)
    saved = saving.save(answers, place)
    if as_json:
        printing.print_json(saving.as_json(answers, saved))
    else:
        saving.print_answers(answers, saved)
    return 1 if any(answer.error is not None for answer in answers) else 0


def _outputs(
    place: OneFile | Folder | None,
    style: str,
    colour_map: str,
    clip: float,
    canvas: str | None,
    boxes: bool,
    mask: bool,
) -> Sequence[Output]:
    from whylight.cli.saving import MASK
    from whylight.outputs import BoxesOutput, Canvas, MapOutput, MaskOutput, PictureOutput, PictureStyle

    frame: dict[str, Any] = {} if canvas is None else {"canvas": Canvas(canvas)}
    outputs: list[Output] = []
    if place is not None:
        frame_and_style = {"style": PictureStyle(style), "colour_map": colour_map, "clip_percentile": clip, **frame}
        outputs.append(PictureOutput(format=place.format, **frame_and_style))
    if boxes:
        outputs.append(BoxesOutput(**frame))
    if mask:
        outputs.append(MaskOutput(name=MASK, **frame))
    return outputs or [MapOutput()]
