"""Draws inspections, and the methods that the demo model is refused by, for the catalog: docs/images/inspection/.

    python scripts/make_inspection_gallery.py [METHOD ...]

Without names, all of them: some minutes on a processor, most of which train a small autoencoder and a small transformer
on scikit-learn's digits. captions.json says what each picture shows; generate_methods_page.py puts it on the pages.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from digit_models import pair_reader, pairs
from PIL import Image

import whylight
from whylight.models import Model, ModelConfig, open_model
from whylight_demo import DemoSource
from whylight_generative.source import GenerativeSource

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "images" / "inspection"
CACHE = ROOT / "cache" / "inspection-gallery"
HEIGHT, GAP, SEED = 224, 6, 0
PHOTOS = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "immunohistochemistry", "rocket")
DIGITS = 600
"""Pictures of the data set of digits."""


@cache
def demo() -> Model:
    """Return the demo model, EfficientNet-lite0."""
    return open_model(ModelConfig(name="demo", source="demo:efficientnet-lite0"), {"demo": DemoSource})


@cache
def autoencoder() -> tuple[Model, Model]:
    """Return vae:32 as examples/train_vae.py trains it on digits, and its decoder; once trained, they are kept."""
    sys.path.insert(0, str(ROOT / "examples"))
    import train_vae

    folder = CACHE / "vae"
    if not (folder / "decoder.safetensors").exists():
        count, take = train_vae.digits()
        folder.mkdir(parents=True, exist_ok=True)
        train_vae.export(train_vae.train(train_vae.VAE_32, count, take, folder, steps=2000), folder)
    sources = {"vae": GenerativeSource}
    parts = [("vae", "vae:32"), ("decoder", "vae:32-decoder")]
    opened = [
        open_model(ModelConfig(name=name, source=source, weights=str(folder / f"{name}.safetensors")), sources)
        for name, source in parts
    ]
    return opened[0], opened[1]


@cache
def digit_folders() -> Path:
    """Return a folder of scikit-learn's digits, a folder for each class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    for number in range(DIGITS):
        folder = CACHE / "digits" / str(found.target[number])
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray((found.images[number] * 15.9).astype(np.uint8))
        small.resize((32, 32), Image.Resampling.BILINEAR).save(folder / f"{number}.png")
    return CACHE / "digits"


@cache
def photo_folder() -> Path:
    """Return a folder of the photos of scikit-image."""
    folder = CACHE / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS:
        Image.fromarray(getattr(skimage.data, name)()).convert("RGB").save(folder / f"{name}.png")
    return folder


def chelsea() -> Image.Image:
    """Return the part of a photo that the demo model sees."""
    photo = Image.fromarray(skimage.data.chelsea())
    left, top, right, bottom = (round(edge) for edge in demo().transform.fit(photo).box)
    return photo.crop((left, top, right, bottom))


def artifact(found: whylight.Explanation, name: str) -> Image.Image:
    """Return a picture of an answer."""
    (picture,) = (one for one in found.artifacts if one.name == name)
    assert isinstance(picture, whylight.Picture)
    return Image.open(io.BytesIO(picture.data)).convert("RGB")


def activations() -> list[Image.Image]:
    """A photo, and the sixteen strongest channels of `blocks.4` of the demo model, each in its own range."""
    found = whylight.inspect(demo(), "activations", chelsea(), options={"layer": "blocks.4"})
    return [chelsea(), artifact(found, "grid")]


def filters() -> list[Image.Image]:
    """The filters of the demo model's first layer: edges and colours."""
    return [artifact(whylight.inspect(demo(), "filters"), "grid")]


def top_patches() -> list[Image.Image]:
    """What of scikit-image's photos excites channels 3, 11 and 27 of the demo model's `blocks.6` most."""
    sheets = []
    for channel in (3, 11, 27):
        options = {"data_set": "photos", "layer": "blocks.6", "channel": channel, "count": 4}
        data_sets = {"photos": photo_folder()}
        sheets.append(
            artifact(whylight.inspect(demo(), "top-patches", options=options, data_sets=data_sets), "patches")
        )
    return sheets


def a_digit() -> Image.Image:
    """Return a picture of a three."""
    return Image.open(digit_folders() / "3" / "3.png")


def reconstruction() -> list[Image.Image]:
    """A digit, what `vae:32`, trained for two minutes, makes of it, and where they differ."""
    found = whylight.inspect(autoencoder()[0], "reconstruction", a_digit())
    return [artifact(found, name) for name in ("input", "reconstruction", "error")]


def latent_traversal() -> list[Image.Image]:
    """Three latents of `vae:32` that hold most of this digit: where each looks, and what is decoded as it moves."""
    vae, decoder = autoencoder()
    options = {"decoder": "decoder", "latents": strongest(3)}
    found = whylight.inspect(vae, "latent-traversal", a_digit(), options=options, others={"decoder": decoder})
    return [artifact(found, "traversal")]


def latent_map() -> list[Image.Image]:
    """The codes of 600 digits by t-SNE, coloured by what they show, which `vae:32` was never told."""
    options = {"data_set": "digits", "projection": "t-sne"}
    found = whylight.inspect(
        autoencoder()[0], "latent-map", options=options, seed=SEED, data_sets={"digits": digit_folders()}
    )
    return [artifact(found, "picture")]


def latent_grad_cam() -> list[Image.Image]:
    """A digit, and where the three latents of `vae:32` look that hold most of it."""
    targets = [whylight.Latent(index) for index in strongest(3)]
    return [a_digit().convert("RGB"), *explained(autoencoder()[0], a_digit(), "latent-grad-cam", targets)]


def strongest(count: int) -> list[int]:
    """Return the latents that hold most of the digit."""
    found = whylight.inspect(autoencoder()[0], "reconstruction", a_digit())
    (table,) = (one for one in found.artifacts if one.name == "latents")
    assert isinstance(table, whylight.Table)
    return [int(str(row[0])) for row in table.rows[:count]]


def attention_rollout() -> list[Image.Image]:
    """Two digits, and where a small transformer that is to name both gathers from: the rollout knows no class."""
    board, named = boards()
    return [shown(board), *explained(pair_reader(), board, "attention-rollout", [int(named[0])])]


def chefer() -> list[Image.Image]:
    """Two digits, and why a small transformer says the left one, then the right one."""
    board, named = boards()
    return [shown(board), *explained(pair_reader(), board, "chefer", [int(one) for one in named])]


def boards() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a picture of two digits `[1, 32, 32]`, and which they are, that the transformer reads right."""
    found, named = pairs(16, torch.Generator().manual_seed(1))
    reader = pair_reader().module
    with torch.no_grad():
        read = reader(found).topk(2).indices
    right = (read.sort(1).values == named.sort(1).values).all(1)
    row = int(right.nonzero()[0])
    return found[row], named[row]


def shown(board: torch.Tensor) -> Image.Image:
    """Return a picture `[1, H, W]` of 0..1 to look at."""
    return Image.fromarray((board[0] * 255).round().to(torch.uint8).numpy()).convert("RGB")


def explained(model: Model, picture: Image.Image | torch.Tensor, method: str, targets: list[Any]) -> list[Image.Image]:
    """Return what an attribution draws for each target."""
    answer = whylight.explain(model, picture, method, targets)
    assert isinstance(answer, whylight.Explained)
    return [Image.open(io.BytesIO(one.picture.data)).convert("RGB") for one in answer.explanations]


PANELS: dict[str, Callable[[], list[Image.Image]]] = {
    "activations": activations,
    "filters": filters,
    "top-patches": top_patches,
    "reconstruction": reconstruction,
    "latent-traversal": latent_traversal,
    "latent-map": latent_map,
    "latent-grad-cam": latent_grad_cam,
    "attention-rollout": attention_rollout,
    "chefer": chefer,
}


def strip(images: Sequence[Image.Image]) -> Image.Image:
    """Return pictures side by side, on white, all of one height; small ones by whole pixels, so that these are seen."""
    sized = []
    for image in images:
        how = Image.Resampling.NEAREST if image.height < HEIGHT / 2 else Image.Resampling.LANCZOS
        height = HEIGHT if len(images) > 1 else image.height * -(-HEIGHT // image.height)
        sized.append(image.resize((round(image.width * height / image.height), height), how))
    sheet = Image.new("RGB", (sum(one.width + GAP for one in sized) - GAP, sized[0].height), "white")
    left = 0
    for one in sized:
        sheet.paste(one, (left, 0))
        left += one.width + GAP
    return sheet


def main(names: Sequence[str]) -> None:
    """Draw the panels that are named, or all, and write down what they show."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names or PANELS:
        strip(PANELS[name]()).save(PICTURES / f"{name}.webp", quality=85, method=6)
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
    captions = {name: panel.__doc__ for name, panel in PANELS.items()}
    (PICTURES / "captions.json").write_text(json.dumps(captions, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
