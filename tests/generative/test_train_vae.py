"""The example that trains: its loss falls, it goes on with the same bits, and what it writes is what vae:32 loads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import train_vae

from whylight.models import ModelConfig, open_model
from whylight_generative import GenerativeSource
from whylight_generative.variational_autoencoder import VAE_32, VAE_128

SOURCES = {"vae": GenerativeSource}


@pytest.fixture(autouse=True)
def same_random_numbers_afterwards():
    with torch.random.fork_rng(devices=[]):
        yield


def trained(folder, steps, losses=None, **settings):
    count, take = train_vae.digits()
    settings = {"batch": 16, "every": 5, **settings}

    def tell(step, reconstruction, divergence):
        if losses is not None:
            losses.append(reconstruction + divergence)

    return train_vae.train(VAE_32, count, take, folder, steps=steps, tell=tell, **settings)


def test_the_loss_falls_and_the_files_load(tmp_path):
    losses = []
    network = trained(tmp_path, 30, losses)
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    train_vae.export(network, tmp_path)
    for name, part in (("32", network), ("32-decoder", network.decoder)):
        file = "decoder" if name.endswith("decoder") else "vae"
        model = open_model(
            ModelConfig(name=file, source=f"vae:{name}", weights=str(tmp_path / f"{file}.safetensors")), SOURCES
        )
        for key, value in part.state_dict().items():
            assert torch.equal(model.module.state_dict()[key], value)


def test_it_goes_on_with_the_same_bits(tmp_path):
    whole = trained(tmp_path / "whole", 12)
    stopped = tmp_path / "stopped"

    class Stopped(Exception):
        pass

    def stop(step, reconstruction, divergence):
        if step == 8:
            raise Stopped

    count, take = train_vae.digits()
    with pytest.raises(Stopped):
        train_vae.train(VAE_32, count, take, stopped, steps=12, batch=16, every=5, tell=stop)
    assert [path.name for path in stopped.iterdir()] == ["checkpoint-000000005"]
    losses = []
    resumed = trained(stopped, 12, losses)
    assert len(losses) == 7
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)
    assert [path.name for path in stopped.iterdir()] == ["checkpoint-000000012"]


def test_an_epoch_has_every_picture_once():
    rows = [row for step in range(5) for row in train_vae._rows(10, 4, step, 3)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]


def test_the_large_one_learns_from_a_folder(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(skimage.data.chelsea()).save(photos / "cat.png")
    Image.fromarray(skimage.data.coffee()).save(photos / "cup.png")
    count, take = train_vae.pictures(photos, VAE_128)
    losses = []
    train_vae.train(
        VAE_128, count, take, tmp_path, steps=4, batch=2, tell=lambda step, pixels, kl: losses.append(pixels + kl)
    )
    assert count == 2
    assert losses[-1] < losses[0]


def test_the_command_writes_both_files_and_says_where(tmp_path, capsys):
    train_vae.main(["--to", str(tmp_path), "--steps", "2", "--batch", "4", "--device", "cpu"])
    assert (tmp_path / "vae.safetensors").exists()
    assert (tmp_path / "decoder.safetensors").exists()
    with pytest.raises(SystemExit):
        train_vae.main(["--to", str(tmp_path), "--architecture", "128"])
    assert "name --pictures" in capsys.readouterr().err
