"""Draws every method on the same photos for the catalog's pages: docs/images/methods/; knows how, not what they mean.

    python scripts/make_gallery.py [--fresh METHOD ...]

Writes one picture for each method, one sheet of all methods for each photo, and drawn.json, from which
generate_methods_page.py takes what it says of them. What was drawn before is kept in cache/gallery and drawn anew only
when the method's version, its options or the model changed, or by --fresh (without names: everything).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.data
from PIL import Image, ImageDraw, ImageFont

import whylight
from whylight.models import Model, ModelConfig, open_model
from whylight.plugins import OfferedMethod, Plugins
from whylight_demo import DemoSource

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "images" / "methods"
CACHE = ROOT / "cache" / "gallery"
MODEL = "demo:efficientnet-lite0"
SEED = 0

PHOTOS = {
    "astronaut": ("football helmet", "space shuttle"),
    "chelsea": ("tiger cat", "Egyptian cat"),
    "coffee": ("espresso", "wooden spoon"),
    "rocket": ("missile", "drilling platform"),
}
"""Photos of scikit-image, and two classes that each is asked about."""

OPTIONS: dict[str, dict[str, Any]] = {
    "score-cam": {"top_k": 64},
    "expected-gradients": {"samples": 25},
    "gradient-shap": {"samples": 25},
    "integrated-gradients": {"steps": 20},
    "smoothgrad": {"samples": 10},
    "vargrad": {"samples": 10},
    "rise": {"masks": 500},
    "lime": {"samples": 300},
    "kernel-shap": {"samples": 300},
}
"""Options of methods that would take minutes on a processor by default, smaller than one would choose for a result."""

BRIGHTEST = 99.0
"""Percentile of magnitudes that gets the last colour in maps drawn without the photo."""

SHEET_PANEL, PAGE_PANEL, GAP, CAPTION, COLUMNS = 150, 224, 10, 24, 4
INK, QUIET, PAPER = (32, 33, 36), (105, 110, 118), (255, 255, 255)


@dataclass(frozen=True)
class Drawn:
    """What one method gave for one photo: pictures of both classes, as PNG, their scores, and how alike the maps are.

    `likeness` is the correlation of both maps, None if one of them is the same everywhere. `fine` says that the maps
    are drawn without the photo; see `_alone`.
    """

    pictures: tuple[bytes, ...]
    scores: tuple[float, ...]
    likeness: float | None
    fine: bool


def draw(model: Model, photos: dict[str, Image.Image], offered: OfferedMethod, fresh: bool) -> dict[str, Drawn] | str:
    """Return what a method gives for each photo, or why the model is refused."""
    method, name = offered.method, offered.method.name
    assert isinstance(method, whylight.Attribution)
    signed = method.presentation(method.Options(**OPTIONS.get(name, {}))).signed
    found = {} if fresh else {photo: kept for photo in photos if (kept := _load(_path(model, offered, photo)))}
    missing = [photo for photo in photos if photo not in found]
    if missing:
        sys.stdout.write(f"{name}: {', '.join(missing)}\n")
        sys.stdout.flush()
        try:
            explained = whylight.explain(
                model,
                [photos[photo] for photo in missing],
                name,
                [list(PHOTOS[photo]) for photo in missing],
                options=OPTIONS.get(name),
                outputs=[whylight.MapOutput(), whylight.PictureOutput()],
                seed=SEED,
            )
        except whylight.Unsupported as error:
            return str(error)
        assert isinstance(explained, list)
        for photo, one in zip(missing, explained, strict=True):
            found[photo] = _drawn(one, signed)
            _keep(_path(model, offered, photo), found[photo])
    return {photo: found[photo] for photo in photos}


def _drawn(explained: whylight.Explained, signed: bool) -> Drawn:
    both = explained.explanations
    maps = [one.map.astype(np.float64) for one in both]
    constant = any(one.std() == 0 for one in maps)
    fine = any(0 < np.percentile(np.abs(one), BRIGHTEST) < np.abs(one).max() / 2 for one in maps)
    return Drawn(
        tuple(_alone(one, signed) for one in maps) if fine else tuple(one.picture.data for one in both),
        tuple(round(one.target_score, 2) for one in both),
        None if constant else round(float(np.corrcoef([one.ravel() for one in maps])[0, 1]), 2),
        fine,
    )


def _alone(values: npt.NDArray[np.float64], signed: bool) -> bytes:
    """Draw a fine map without the photo, as PNG: in red and blue on white, or if its sign says nothing, on black.

    Half of the overlay's colours would go to a few pixels, and nothing else would be seen beside the photo: here the
    brightest per cent all have the last colour.
    """
    last = np.percentile(np.abs(values), BRIGHTEST) or np.abs(values).max() or 1.0
    shown = np.clip(values / last, -1, 1)
    coloured = [1 + np.minimum(shown, 0), 1 - np.abs(shown), 1 - np.maximum(shown, 0)]
    channels = coloured if signed else [np.abs(shown)] * 3
    written = io.BytesIO()
    Image.fromarray((np.stack(channels, -1) * 255).round().astype(np.uint8)).save(written, "png")
    return written.getvalue()


def _path(model: Model, offered: OfferedMethod, photo: str) -> Path:
    """Return where the pictures of a method and a photo are kept: elsewhere when anything changes that they show."""
    method = offered.method
    shown = [method.name, method.version, OPTIONS.get(method.name), photo, PHOTOS[photo], SEED, model.digest]
    key = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:12]
    return CACHE / f"{method.name}-{photo}-{key}"


def _keep(folder: Path, drawn: Drawn) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(drawn.pictures):
        (folder / f"{number}.png").write_bytes(picture)
    (folder / "drawn.json").write_text(json.dumps({**asdict(drawn), "pictures": len(drawn.pictures)}))


def _load(folder: Path) -> Drawn | None:
    if not (folder / "drawn.json").exists():
        return None
    kept = json.loads((folder / "drawn.json").read_text())
    pictures = tuple((folder / f"{number}.png").read_bytes() for number in range(kept["pictures"]))
    return Drawn(pictures, tuple(kept["scores"]), kept["likeness"], kept["fine"])


def sheet(photo: str, seen: Image.Image, every: dict[str, Drawn]) -> Image.Image:
    """Return one sheet: what the model saw, then a cell for each method with both classes side by side."""
    cells = [("", [seen], "what the model saw"), *((name, _opened(one), name) for name, one in every.items())]
    cell = (2 * SHEET_PANEL + 2 + GAP, SHEET_PANEL + CAPTION)
    rows = -(-len(cells) // COLUMNS)
    head = CAPTION + GAP
    picture = Image.new("RGB", (COLUMNS * cell[0] + GAP, head + rows * cell[1]), PAPER)
    pen = ImageDraw.Draw(picture)
    left, right = PHOTOS[photo]
    pen.text((GAP, GAP // 2), f"{photo}: left “{left}”, right “{right}”", INK, ImageFont.load_default(17))
    for number, (_, panels, caption) in enumerate(cells):
        x, y = GAP + number % COLUMNS * cell[0], head + number // COLUMNS * cell[1]
        for place, panel in enumerate(panels):
            small = panel.resize((SHEET_PANEL, SHEET_PANEL), Image.Resampling.LANCZOS)
            picture.paste(small, (x + place * (SHEET_PANEL + 2), y))
        pen.text((x, y + SHEET_PANEL + 2), caption, INK, ImageFont.load_default(14))
    return picture


def page_picture(photo: str, seen: Image.Image, drawn: Drawn) -> Image.Image:
    """Return the picture of a method's page: what the model saw, and both classes with their scores."""
    captions = ["what the model saw"]
    captions += [f"{label}, score {score:.1f}" for label, score in zip(PHOTOS[photo], drawn.scores, strict=True)]
    picture = Image.new("RGB", (3 * PAGE_PANEL + 2 * GAP, PAGE_PANEL + CAPTION), PAPER)
    pen = ImageDraw.Draw(picture)
    for number, (panel, caption) in enumerate(zip([seen, *_opened(drawn)], captions, strict=True)):
        x = number * (PAGE_PANEL + GAP)
        picture.paste(panel.resize((PAGE_PANEL, PAGE_PANEL), Image.Resampling.LANCZOS), (x, 0))
        pen.text((x, PAGE_PANEL + 4), caption, QUIET, ImageFont.load_default(14))
    return picture


def _opened(drawn: Drawn) -> list[Image.Image]:
    return [Image.open(io.BytesIO(picture)).convert("RGB") for picture in drawn.pictures]


def _seen(model: Model, photo: Image.Image) -> Image.Image:
    """Return the part of a photo that the model sees."""
    left, top, right, bottom = (round(edge) for edge in model.transform.fit(photo).box)
    return photo.crop((left, top, right, bottom))


def main() -> None:
    """Draw what is missing, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", nargs="*", metavar="METHOD", help="draw these anew; without names, all of them")
    fresh = parser.parse_args().fresh
    plugins = Plugins()
    plugins.load()
    offered = [one for one in plugins.methods.values() if isinstance(one.method, whylight.Attribution)]
    offered.sort(key=lambda one: (one.plugin, one.method.name))
    model = open_model(ModelConfig(name="demo", source=MODEL), {DemoSource.scheme: DemoSource})
    photos = {name: Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOS}
    made: dict[str, dict[str, Drawn]] = {}
    record: dict[str, Any] = {}
    for one in offered:
        name = one.method.name
        drawn = draw(model, photos, one, fresh is not None and (not fresh or name in fresh))
        if isinstance(drawn, str):
            record[name] = {"refused": drawn}
            continue
        made[name] = drawn
        likeness = {photo: result.likeness for photo, result in drawn.items()}
        fine = any(result.fine for result in drawn.values())
        record[name] = {"options": OPTIONS.get(name, {}), "likeness": likeness, "fine": fine}
    PICTURES.mkdir(parents=True, exist_ok=True)
    first = next(iter(PHOTOS))
    for photo, image in photos.items():
        seen = _seen(model, image)
        drawn_here = {name: results[photo] for name, results in made.items()}
        sheet(photo, seen, drawn_here).save(PICTURES / f"all-{photo}.webp", quality=85, method=6)
        if photo == first:
            for name, result in drawn_here.items():
                page_picture(photo, seen, result).save(PICTURES / f"{name}.webp", quality=85, method=6)
    text = json.dumps({"model": MODEL, "seed": SEED, "photos": PHOTOS, "methods": record}, indent=1, ensure_ascii=False)
    (PICTURES / "drawn.json").write_text(text + "\n")
    total = sum(path.stat().st_size for path in PICTURES.iterdir())
    sys.stdout.write(f"{PICTURES}: {len(made)} methods, {total / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
