"""One picture of an evaluation: each image beside its maps, with their scores underneath; asks nobody for anything."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont, ImageOps

from whylight.errors import WhylightError
from whylight.evaluation import Evaluation
from whylight.explanation import Explained, Explanation

CELL = 224
"""Longest side of a picture."""

_GAP = 12
_LINE = 17
_TEXT = 13
_INK, _BEST, _PAPER = (30, 30, 30), (0, 110, 40), (255, 255, 255)


def check_path(out: str) -> None:
    """Refuse a name that no picture can be written under, before anything is computed.

    Raises:
        UsageError: the ending is of no kind of picture that is written, or there is no such folder.
    """
    if Path(out).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise click.UsageError(f"{out}: pictures are written as .png, .jpg, .jpeg, .webp")
    if not Path(out).absolute().parent.is_dir():
        raise click.UsageError(f"{out}: there is no such folder")


def draw(found: Evaluation, images: Sequence[str]) -> Image.Image:
    """Return a grid: a row for each image and target, in it the image and what each method makes of it.

    Under each map are the method and the values of its metrics, the best of the row in green and marked; the methods
    stand in the order of the ranking by all metrics.
    """
    rows = [
        row
        for image, result in zip(images, found.results, strict=True)
        if not isinstance(result, WhylightError)
        for row in _rows(image, result, [ranked.method_index for ranked in found.overall.methods])
    ]
    if not rows:
        raise click.ClickException("no picture could be explained, so that there is nothing to draw")
    columns = max(len(row) for row in rows)
    heights = [max(cell.height for cell in row) for row in rows]
    width = columns * (CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, sum(heights) + _GAP * (len(rows) + 1)), _PAPER)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (CELL + _GAP), top))
        top += height + _GAP
    return sheet


def _rows(image: str, explained: Explained, order: Sequence[int]) -> list[list[Image.Image]]:
    """Return the cells of one image, a row for each of its targets."""
    with Image.open(image) as opened:
        original = ImageOps.exif_transpose(opened).convert("RGB")
    targets = len(explained.explanations) // len(order)
    rows = []
    for target in range(targets):
        maps = [explained.explanations[method * targets + target] for method in order]
        label = maps[0].target_label or str(maps[0].target)
        caption = [(Path(image).name, _INK), (f"{label}: {maps[0].target_score:.4g}", _INK)]
        rows.append([_cell(original, caption), *(_cell(_picture(one), _scores(one, maps)) for one in maps)])
    return rows


def _scores(mine: Explanation, others: Sequence[Explanation]) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the lines under a map: the method, and each metric's value with its colour."""
    lines = [(mine.method, _INK)]
    for index, measured in enumerate(mine.measurements):
        values = [other.measurements[index].value for other in others]
        best = measured.value == (max if measured.higher_is_better else min)(values)
        text = f"{measured.metric} {measured.value:.4g}{' *' if best else ''}"
        lines.append((text, _BEST if best else _INK))
    return lines


def _picture(explanation: Explanation) -> Image.Image:
    with Image.open(io.BytesIO(explanation.picture.data)) as opened:
        return opened.convert("RGB")


def _cell(picture: Image.Image, lines: Sequence[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """Return a picture, scaled to fit, with lines of text under it."""
    fitted = ImageOps.contain(picture, (CELL, CELL))
    text_top = fitted.height + _GAP // 2
    cell = Image.new("RGB", (CELL, text_top + _LINE * len(lines)), _PAPER)
    cell.paste(fitted, ((CELL - fitted.width) // 2, 0))
    pen, font = ImageDraw.Draw(cell), ImageFont.load_default(_TEXT)
    for number, (text, colour) in enumerate(lines):
        while pen.textlength(text, font) > CELL and len(text) > 1:
            text = f"{text[:-2]}…"
        pen.text((0, text_top + number * _LINE), text, colour, font)
    return cell
