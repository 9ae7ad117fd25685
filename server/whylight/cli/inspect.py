"""``whylight inspect``: what a model sees inside; knows no method and no way to a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whylight.cli.parameters import (
    as_dictionary,
    json_option,
    model_option,
    named_option,
    options_option,
    other_option,
    priority_option,
    server_options,
    target_option,
)

if TYPE_CHECKING:
    from whylight.artifact import Artifact
    from whylight.explanation import Explanation
    from whylight.target import Target


@click.command("inspect")
@click.argument("method")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@model_option
@target_option
@options_option
@click.option("-o", "--out", type=click.Path(file_okay=False), help="Folder for pictures and arrays.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of stochastic methods.")
@server_options()
@priority_option
@click.option("--device", help="Device to compute on, such as cuda:0; without --server only.")
@other_option
@named_option(
    "--data-set", "NAME=PATH", "Folder or zip archive of pictures that a method's options name; without --server only."
)
@json_option
def command(
    method: str,
    images: tuple[str, ...],
    model: str,
    targets: tuple[Target, ...],
    options: tuple[tuple[str, Any], ...],
    out: str | None,
    seed: int | None,
    server: str | None,
    tls: bool,
    ca: str | None,
    device: str | None,
    other: dict[str, str],
    data_set: dict[str, str],
    as_json: bool,
) -> None:
    """Show what a model sees inside, here or on a server.

    \b
    whylight inspect layers
    whylight inspect activations cat.jpg -O layer=blocks.4 -o folder
    whylight inspect top-patches -O data_set=photos --data-set photos=pictures/ -o folder
    """
    from whylight.cli import long_work, printing

    if server and (device or other or data_set):
        raise click.UsageError(
            "--device, --other and --data-set are for work done here; a server has its own devices, models and data"
        )
    task = long_work.LongTask(method, targets, images, model, as_dictionary(options), seed, other, data_set)
    found = long_work.inspect(task, long_work.Place(server, tls, ca, device))
    files = _save(found, Path(out)) if out else {}
    if as_json:
        artifacts = [_as_json(artifact, files.get(artifact.name)) for artifact in found.artifacts]
        printing.print_json(
            {
                "method": found.method,
                "options": found.options,
                "seed": found.seed,
                "checks": found.checks,
                "artifacts": artifacts,
            }
        )
    else:
        _print(found, files)


def _save(found: Explanation, folder: Path) -> dict[str, Path]:
    """Write pictures as they are and arrays as .npy, and return the file of each by the artifact's name.

    Raises:
        ClickException: a file cannot be written.
    """
    import numpy as np

    from whylight.artifact import Map, Picture

    files: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for artifact in found.artifacts:
            name = re.sub(r"[^\w.+-]+", "-", artifact.name).strip("-.")[:100] or "artifact"
            if isinstance(artifact, Picture):
                files[artifact.name] = folder / f"{name}.{artifact.media_type.partition('/')[2]}"
                files[artifact.name].write_bytes(artifact.data)
            elif isinstance(artifact, Map):
                files[artifact.name] = folder / f"{name}.npy"
                np.save(files[artifact.name], artifact.array, allow_pickle=False)
    except OSError as error:
        raise click.ClickException(f"{error.filename or folder}: {error.strerror}") from None
    return files


def _print(found: Explanation, files: dict[str, Path]) -> None:
    from whylight.artifact import Table
    from whylight.cli import printing

    tables = [artifact for artifact in found.artifacts if isinstance(artifact, Table)]
    others = [artifact for artifact in found.artifacts if not isinstance(artifact, Table)]
    for table in tables:
        printing.print_table(table.columns, table.rows, title=table.name)
    if others:
        rows = [(artifact.name, _what(artifact), str(files.get(artifact.name, ""))) for artifact in others]
        printing.print_table(("artifact", "what", "file"), rows)
    if found.checks:
        printing.print_table(("check", "value"), list(found.checks.items()))


def _what(artifact: Artifact) -> str:
    from whylight.artifact import Map, Picture, Points

    if isinstance(artifact, Map):
        return f"array {list(artifact.array.shape)} {artifact.array.dtype}"
    if isinstance(artifact, Picture):
        return f"picture {artifact.width} x {artifact.height}"
    return f"{len(artifact.points)} points" if isinstance(artifact, Points) else type(artifact).__name__.lower()


def _as_json(artifact: Artifact, file: Path | None) -> dict[str, Any]:
    """Return an artifact for machines: tables and points as they are, arrays and pictures by their files."""
    from whylight.artifact import Points, Table

    fields: dict[str, Any] = {"name": artifact.name, "what": _what(artifact)}
    if file is not None:
        fields["path"] = str(file)
    if isinstance(artifact, Table):
        fields |= {"columns": artifact.columns, "rows": artifact.rows}
    elif isinstance(artifact, Points):
        fields["points"] = [vars(point) for point in artifact.points]
    return fields
