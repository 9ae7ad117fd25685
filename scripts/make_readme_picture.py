"""Draws docs/images/two-classes.png, the picture of README.md: one photo, two classes, two different maps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

import whylight
from whylight.models import ModelConfig, open_model
from whylight_demo import DemoSource

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "two-classes.png"
MODEL = "demo:efficientnet-lite0"
TARGETS = ["football helmet", "space shuttle"]
WIDTH, MARGIN, CAPTION = 1200, 16, 76
INK, QUIET, PAPER = (32, 33, 36), (105, 110, 118), (255, 255, 255)


def draw() -> Image.Image:
    """Explain the photo and return the picture: the photo as the model sees it, and a panel for each target."""
    photo = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    model = open_model(ModelConfig(name="demo", source=MODEL), {DemoSource.scheme: DemoSource})
    explained = whylight.explain(
        model, photo, "grad-cam", TARGETS, outputs=[whylight.PictureOutput(canvas=whylight.Canvas.ORIGINAL)]
    )
    assert isinstance(explained, whylight.Explained)
    left, top, right, bottom = (round(edge) for edge in model.transform.fit(photo).box)
    predicted = ", ".join(
        f"{prediction.label} {prediction.probability:.0%}" for prediction in explained.predictions[:2]
    )
    panels = [(photo, "What it saw", predicted)]
    for explanation in explained.explanations:
        panels.append(
            (explanation.picture.image(), f"Why “{explanation.target_label}”?", f"score {explanation.target_score:.1f}")
        )
    side = (WIDTH - (len(panels) + 1) * MARGIN) // len(panels)
    sheet = Image.new("RGB", (WIDTH, side + MARGIN + CAPTION), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (panel, question, answer) in enumerate(panels):
        x = MARGIN + number * (side + MARGIN)
        seen = panel.convert("RGB").crop((left, top, right, bottom))
        sheet.paste(seen.resize((side, side), Image.Resampling.LANCZOS), (x, MARGIN))
        pen.text((x, MARGIN + side + 10), question, INK, ImageFont.load_default(23))
        pen.text((x, MARGIN + side + 42), answer, QUIET, ImageFont.load_default(17))
    return sheet


def main() -> None:
    """Write the picture with 256 colours, dithered: a third of the bytes."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    sheet = draw()
    drawn = sheet.quantize(palette=sheet.quantize(255, Image.Quantize.MEDIANCUT), dither=Image.Dither.FLOYDSTEINBERG)
    drawn.putpalette([*(drawn.getpalette() or ())[: 255 * 3], *PAPER])
    drawn.paste(255, mask=Image.fromarray((np.asarray(sheet) == PAPER).all(axis=2)))
    drawn.save(PICTURE, optimize=True)
    sys.stdout.write(f"{PICTURE}: {PICTURE.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
