"""Writes the catalog of methods: an index, a page for each method, the gallery's page; ``--check`` only compares.

It runs no model: what there is to say of pictures is in docs/images/methods/drawn.json, which make_gallery.py writes,
and docs/images/inspection/captions.json, which make_inspection_gallery.py writes.
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from method_page import NOTE, default_options, page, settings

from whylight.plugins import OfferedMethod, Plugins

DOCS = Path(__file__).parent.parent / "docs"
PICTURES = DOCS / "images" / "methods"
INDEX = DOCS / "reference" / "methods.md"
PAGES = DOCS / "reference" / "methods"
GALLERY = DOCS / "gallery.md"

TOLD = frozenset({"layers", "predictions"})
"""Methods whose answers are tables."""

INDEX_HEAD = f"""\
# Methods

{NOTE}

Each has a page: its formula, when to use it and when not, what it costs, its options, a picture. All of them on the
same photos are in the [gallery](../gallery.md).

Every method of explaining takes `profile`, which follows the numeric conventions of `paper` (the default),
`pytorch-grad-cam`, `captum` or `torchcam`, so that a side-by-side comparison is exact (but for Grad-CAM++ of
torchcam, whose weights are not those of the paper). *Cost* is in model evaluations for one input with one target, at
default options.

| method | what it is | needs | cost | plugin |
|---|---|---|---|---|
"""

GALLERY_HEAD = f"""\
# Gallery

{NOTE}

Every method on the same photos, for two classes each, by the demo model (EfficientNet-lite0 with its ImageNet
weights), at 224 x 224 pixels, made small. `make gallery` draws it anew. Over a photo it is what `whylight explain`
draws: from blue (nothing) over green to red, or, of signed maps, red what speaks for the class and blue what speaks
against it. Fine maps would hardly be seen there, for a few pixels have most of their range: they are drawn without
the photo, the strongest per cent in one colour, signed ones on white, others on black.

What to look for:
- **Does it depend on the class?** The table below has the correlation of both maps: 1.00 is the same map twice.
- `cam`, `grad-cam`, `hires-cam`, `xgrad-cam` and `shapley-cam` are one and the same here, but for the ReLU that `cam`
  has not: this model ends in global average pooling and one linear layer, where their definitions meet. At earlier
  layers, and in other networks, they part.
- `eigen-cam` and `deconvnet` know no class. In this network, which has no max pooling, `deconvnet` does not even know
  the photo.
- Maps are scaled one by one: colours of two pictures cannot be compared. See [reading a
  map](explanation/reading-a-map.md).
"""


def pages() -> dict[Path, str]:
    """Return every page by its path."""
    plugins = Plugins()
    plugins.load()
    offered = sorted(plugins.methods.values(), key=lambda one: one.method.name)
    drawn = json.loads((PICTURES / "drawn.json").read_text())
    made = {INDEX: INDEX_HEAD + "".join(map(_row, offered)), GALLERY: "\n".join(_gallery(drawn)) + "\n"}
    return made | {PAGES / f"{one.method.name}.md": page(one, drawn) for one in offered}


def undrawn(offered: Mapping[str, OfferedMethod], drawn: Mapping[str, Any]) -> list[str]:
    """Return which pictures there are not, of methods that give any and of photos."""
    names = [*sorted(set(offered) - TOLD), *(f"all-{photo}" for photo in drawn["photos"])]
    return [name for name in names if not any(PICTURES.parent.glob(f"*/{glob.escape(name)}.webp"))]


def _row(offered: OfferedMethod) -> str:
    method = offered.method
    needs = ", ".join(sorted(need.value for need in method.needs)) or "nothing"
    options = default_options(method)
    cost = "–" if options is None else f"{method.cost(options):g}"
    link = f"[{method.name}](methods/{method.name}.md)"
    return f"| {link} | {method.summary()} | {needs} | {cost} | {offered.plugin} |\n"


def _gallery(drawn: Mapping[str, Any]) -> Iterator[str]:
    yield GALLERY_HEAD
    smaller = [
        f"{name}: {settings(known['options'])}" for name, known in drawn["methods"].items() if known.get("options")
    ]
    shown = f"Options that are not the default: {'; '.join(smaller)}. Seed {drawn['seed']}."
    for photo, labels in drawn["photos"].items():
        yield f"## {photo.capitalize()}: {labels[0]}, {labels[1]}"
        yield f"![Every method on {photo}](images/methods/all-{photo}.webp)\n"
        yield f"*Left “{labels[0]}”, right “{labels[1]}”. {shown}*\n"
    yield "## How alike the maps of both classes are"
    yield "Correlation of the two native maps; a dash where one of them is the same everywhere.\n"
    yield f"| method | {' | '.join(drawn['photos'])} |"
    yield "|---|" + "---|" * len(drawn["photos"])
    refused = []
    for name, known in sorted(drawn["methods"].items()):
        if "refused" in known:
            refused.append(f"[{name}](reference/methods/{name}.md)")
            continue
        values = ["–" if value is None else f"{value:.2f}" for value in known["likeness"].values()]
        yield f"| [{name}](reference/methods/{name}.md) | {' | '.join(values)} |"
    if refused:
        yield f"\nNot among them, for they want other networks than the demo model: {', '.join(refused)}."


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="fail if a page is not up to date, or a picture is missing"
    )
    checking = parser.parse_args().check
    made = pages()
    stale = [path for path in PAGES.glob("*.md") if path not in made]
    if checking:
        wrong = [path for path, text in made.items() if not path.exists() or path.read_text() != text] + stale
        if wrong:
            sys.exit(f"not up to date: {', '.join(map(str, wrong))}: run python {sys.argv[0]}")
        plugins = Plugins()
        plugins.load()
        missing = undrawn(plugins.methods, json.loads((PICTURES / "drawn.json").read_text()))
        if missing:
            sys.exit(f"not drawn: {', '.join(missing)}: run make gallery")
        return
    PAGES.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.unlink()
    for path, text in made.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
