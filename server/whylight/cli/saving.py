"""Puts answers where they belong: pictures into files, numbers into tables or JSON; asks nobody for anything."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import MessageToDict

from whylight import wire
from whylight.artifact import Boxes, Map, Picture
from whylight.cli import printing
from whylight.cli.explaining import Answer
from whylight.cli.failing import describe, error_as_json
from whylight.explanation import Explained, Explanation
from whylight.made import SynthesisFailure, SynthesisResult
from whylight.outputs import PictureFormat

MASK = "mask"
"""Name of the masks that are asked for."""

_FORMATS = {
    ".png": PictureFormat.PNG,
    ".jpg": PictureFormat.JPEG,
    ".jpeg": PictureFormat.JPEG,
    ".webp": PictureFormat.WEBP,
}

Saved = dict[tuple[int, int], Path]
"""The file of each explanation, by the indices of the answer and of the explanation."""


@dataclass(frozen=True)
class OneFile:
    """A file for the only picture."""

    path: Path
    format: PictureFormat


@dataclass(frozen=True)
class Folder:
    """A folder for any number of pictures, each named after image, method and target."""

    path: Path
    format: PictureFormat = PictureFormat.PNG


def place_for(out: str | None, *, count: int) -> OneFile | Folder | None:
    """Return where `count` pictures go.

    Raises:
        UsageError: several pictures and one file, or a file of a kind that is not written.
    """
    if out is None:
        return None
    path = Path(out)
    if path.is_dir() or not path.suffix:
        return Folder(path)
    if count > 1:
        raise click.UsageError(f"{count} pictures do not fit the file {out}; give a folder")
    if path.suffix.lower() not in _FORMATS:
        raise click.UsageError(f"{out}: pictures are written as {', '.join(_FORMATS)}")
    return OneFile(path, _FORMATS[path.suffix.lower()])


def save(answers: Sequence[Answer], place: OneFile | Folder | None) -> Saved:
    """Write the pictures of all answers, with a mask beside each that has one, and return where each picture went.

    Raises:
        ClickException: a file cannot be written.
    """
    saved: Saved = {}
    if place is None:
        return saved
    taken: set[Path] = set()
    try:
        if isinstance(place, Folder):
            place.path.mkdir(parents=True, exist_ok=True)
        for index, answer in enumerate(answers):
            for number, explanation in enumerate(answer.explained.explanations if answer.explained else ()):
                path = (
                    place.path if isinstance(place, OneFile) else _free(_path(place, answer.image, explanation), taken)
                )
                saved[index, number] = explanation.save(path)
                for mask in _masks(explanation):
                    _mask_path(path).write_bytes(Picture.of(mask.name, mask.array * 255).data)
    except OSError as error:
        raise click.ClickException(f"{error.filename or place.path}: {error.strerror}") from None
    return saved


def answer_of(outcome: SynthesisResult | SynthesisFailure, name: str) -> Answer:
    """Return what came of a target of a synthesis as that of a picture called `name`."""
    if isinstance(outcome, SynthesisFailure):
        return Answer(name, error=outcome.error)
    picture = outcome.explanation.picture
    size = (picture.width, picture.height)
    return Answer(name, Explained(outcome.predictions, (outcome.explanation,), size, size), maps=False)


def print_answers(answers: Sequence[Answer], saved: Mapping[tuple[int, int], Path]) -> None:
    """Print the answers for people: errors on standard error, the rest in tables."""
    for index, answer in enumerate(answers):
        if index:
            click.echo()
        if answer.error is not None:
            for line in describe(answer.error):
                click.echo(f"{answer.image}: {line}", err=True)
        if answer.explained is None:
            continue
        explained = answer.explained
        if explained.predictions:
            rows = [
                (prediction.class_index, prediction.label, prediction.score, f"{prediction.probability:.1%}")
                for prediction in explained.predictions
            ]
            printing.print_table(("class", "label", "score", "probability"), rows, title=answer.image)
            click.echo()
        printing.print_table(
            (
                "method",
                "target",
                "score",
                "map" if answer.maps else "checks",
                *(["box"] if _has_boxes(answer) else []),
                *(["file"] if saved else []),
            ),
            [
                (
                    explanation.method,
                    target_text(explanation),
                    explanation.target_score if explanation.target else "",
                    _map_text(explanation) if answer.maps else _check_text(explanation),
                    *([_box_text(explanation)] if _has_boxes(answer) else []),
                    *([str(saved.get((index, number), ""))] if saved else []),
                )
                for number, explanation in enumerate(explained.explanations)
            ],
            title=None if explained.predictions else answer.image,
        )


def as_json(answers: Sequence[Answer], saved: Mapping[tuple[int, int], Path]) -> dict[str, Any]:
    """Return the answers for machines. Maps are not among them; pictures are named by their files."""
    return {"results": [_answer_as_json(answer, index, saved) for index, answer in enumerate(answers)]}


_TARGET_TEXT = 80
"""Characters of a target that a person is shown at most."""


def target_text(explanation: Explanation) -> str:
    """Return a target as a person reads it: its label and index, or what it points at."""
    kind, value = next(iter(_target_as_json(explanation).items()), ("", ""))
    if not kind:
        return ""
    if kind != "class_index":
        text = f"{kind} {value}"  # of a mask or an embedding, not all of it
        return text if len(text) <= _TARGET_TEXT else f"{text[: _TARGET_TEXT - 1]}…"
    return f"{explanation.target_label} ({value})" if explanation.target_label else str(value)


def _answer_as_json(answer: Answer, index: int, saved: Mapping[tuple[int, int], Path]) -> dict[str, Any]:
    if answer.error is not None:
        return {"image": answer.image, "error": error_as_json(answer.error)}
    assert answer.explained is not None  # one of the two is there
    explained = answer.explained
    return {
        "image": answer.image,
        "original_size": explained.original_size,
        "input_size": explained.input_size,
        "predictions": [vars(prediction) for prediction in explained.predictions],
        "explanations": [
            {
                "method": explanation.method,
                "method_version": explanation.method_version,
                "options": dict(explanation.options),
                "target": _target_as_json(explanation),
                "target_label": explanation.target_label,
                "target_score": explanation.target_score,
                **({"map_min": explanation.map_min, "map_max": explanation.map_max} if answer.maps else {}),
                "checks": dict(explanation.checks),
                "seed": explanation.seed,
                "execution": vars(explanation.execution),
                "artifacts": list(_artifacts_as_json(explanation, saved.get((index, number)))),
            }
            for number, explanation in enumerate(explained.explanations)
        ],
    }


def _artifacts_as_json(explanation: Explanation, path: Path | None) -> Any:
    for artifact in explanation.artifacts:
        if isinstance(artifact, Picture):
            size = {"width": artifact.width, "height": artifact.height}
            yield {"name": artifact.name, "path": str(path), "media_type": artifact.media_type, **size}
        elif isinstance(artifact, Boxes):
            boxes = [vars(box) for box in artifact.boxes]
            yield {"name": artifact.name, "boxes": boxes, "canvas": artifact.canvas.value}
    for mask in _masks(explanation):
        height, width = mask.array.shape
        share = float(mask.array.mean())
        file = {} if path is None else {"path": str(_mask_path(path)), "media_type": "image/png"}
        yield {"name": mask.name, **file, "width": width, "height": height, "share": share}


def _target_as_json(explanation: Explanation) -> dict[str, Any]:
    if explanation.target is None:
        return {}
    message = wire.target_to_proto(explanation.target)
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _masks(explanation: Explanation) -> list[Map]:
    """Return the masks of an answer; what else comes as an array is a map, and none is asked for beside a mask."""
    return [artifact for artifact in explanation.artifacts if isinstance(artifact, Map) and artifact.name == MASK]


def _mask_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.mask.png")


def _has_boxes(answer: Answer) -> bool:
    explanations = answer.explained.explanations if answer.explained else ()
    return any(isinstance(artifact, Boxes) for explanation in explanations for artifact in explanation.artifacts)


def _map_text(explanation: Explanation) -> str:
    return f"{explanation.map_min:.3g} … {explanation.map_max:.3g}"


def _check_text(explanation: Explanation) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in explanation.checks.items())


def _box_text(explanation: Explanation) -> str:
    return "; ".join(f"{box.left:g},{box.top:g} … {box.right:g},{box.bottom:g}" for box in explanation.boxes) or "none"


def _path(place: Folder, image: str, explanation: Explanation) -> Path:
    words = (Path(image).stem, explanation.method, explanation.target_label or target_text(explanation))
    slugs = (re.sub(r"[^\w.+-]+", "-", word).strip("-")[:60] for word in words)
    return place.path / f"{'_'.join(slugs)}.{place.format.value}"


def _free(path: Path, taken: set[Path]) -> Path:
    """Return the path, or a numbered one when an earlier picture of this run has it: a/cat.jpg and b/cat.jpg."""
    number, candidate = 2, path
    while candidate in taken:
        candidate, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    taken.add(candidate)
    return candidate
