"""The examples of the page on autoencoders run as they stand, with an autoencoder that was trained for some steps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import train_vae
from test_examples import ADDRESS, ROOT, example, python

from whylight.settings import load_settings
from whylight.testing.server import running_server

PAGE = ROOT / "docs" / "how-to" / "explain-an-autoencoder.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with digit.png, a few digits by their kind, and the weights."""
    place = tmp_path_factory.mktemp("autoencoder")
    digits = load_digits()
    for number in range(12):
        kind = place / "digits" / "pictures" / str(digits.target[number])
        kind.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * 255 / 16).astype(np.uint8)
        picture = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
        picture.save(kind / f"{number}.png")
    picture.save(place / "digit.png")
    with torch.random.fork_rng(devices=[]):
        train_vae.main(["--to", str(place / "digits"), "--steps", "5", "--batch", "8", "--device", "cpu"])
    (place / "whylight.toml").write_text(example(PAGE, "configuration"))
    return place


def test_latents(folder):
    python(example(PAGE, "latents"), folder)
    assert len(list(folder.glob("latent-*.png"))) == 16


def test_inspections(folder, monkeypatch):
    monkeypatch.chdir(folder)
    settings = load_settings(folder / "whylight.toml")
    given = settings.model_dump(mode="json", include={"models", "data_sets", "cache_folder"})
    with running_server(**given) as server:
        printed = python(example(PAGE, "inspections").replace(ADDRESS, server.address), folder)
    psnr, explained = map(float, printed.split())
    assert psnr > 3
    assert 0 < explained <= 1
    assert (folder / "traversal.png").exists()
