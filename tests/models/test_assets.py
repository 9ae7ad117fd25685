"""Real weights out of packages answer as they did when they were examined (research/assets.md section 2)."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from skimage import data

from whylight.models import Transform, wrap_module
from whylight.models.weights import load_weights

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("WHYLIGHT_ASSETS", ROOT / "cache" / "assets"))


def asset(name):
    path = ASSETS / name
    if not path.exists():
        pytest.skip(f"{path} is absent: run scripts/fetch_assets.py")
    return path


def best(model, picture, count=3):
    fitted = model.transform.fit(picture)
    scores = model.subject().forward(model.transform.normalise(torch.from_numpy(fitted.pixels)[None]))
    probabilities, classes = scores.softmax(1)[0].topk(count)
    return classes.tolist(), probabilities


def mobilenet():
    """MobileNetV2 with the preparation of IMAGENET1K_V1, whose weights these are; torchvision's default is V2."""
    module = torchvision.models.mobilenet_v2()
    load_weights(module, asset("mobilenet_v2.safetensors"))
    return wrap_module(module, transform=Transform(resize=256, crop=(224, 224)))


@pytest.mark.assets
def test_mobilenet_knows_the_cat():
    model = mobilenet()
    classes, probabilities = best(model, Image.fromarray(data.chelsea()))
    assert classes == [285, 282, 281]
    torch.testing.assert_close(probabilities, torch.tensor([0.717, 0.147, 0.130]), rtol=0, atol=0.002)
    classes, probabilities = best(model, Image.fromarray(data.coffee()), 1)
    assert classes == [967]
    assert probabilities[0] == pytest.approx(0.992, abs=0.001)


@pytest.mark.assets
def test_mobilenet_on_labelled_photos():
    photos = sorted(asset("photos").iterdir())
    model = mobilenet()
    right = sum(int(photo.stem.split("_")[-1]) == best(model, Image.open(photo), 1)[0][0] for photo in photos)
    assert len(photos) == 20
    assert right >= 17


@pytest.mark.assets
def test_squeezenet_knows_the_coffee():
    module = torchvision.models.squeezenet1_1()
    load_weights(module, asset("squeezenet1_1.safetensors"))
    transform = Transform(
        resize=259,
        crop=(227, 227),
        interpolation="bicubic",
        mean=(103.939, 116.779, 123.68),
        std=(1.0, 1.0, 1.0),
        scale=1.0,
        channel_order="bgr",
    )
    model = wrap_module(module, transform=transform)
    classes, probabilities = best(model, Image.fromarray(data.coffee()), 1)
    assert classes == [967]
    assert probabilities[0] > 0.85
    assert best(model, Image.fromarray(data.chelsea()), 2)[0] == [285, 281]


@pytest.mark.assets
def test_digits_and_faces():
    import numpy as np
    from safetensors import safe_open

    digits = np.load(asset("digits.npz"))
    assert digits["images"].shape == (5000, 28, 28)
    assert np.bincount(digits["labels"]).tolist() == [500] * 10
    with safe_open(asset("face_generator.safetensors"), "pt") as faces:
        assert faces.get_slice("main.0.weight").get_shape() == [100, 512, 4, 4]


def test_the_unpickler_reads_arrays_only(monkeypatch):
    import importlib.util
    import io

    import numpy as np

    spec = importlib.util.spec_from_file_location("fetch_assets", ROOT / "scripts" / "fetch_assets.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "fetch_assets", script)
    spec.loader.exec_module(script)
    array = np.arange(6.0).reshape(2, 3)
    read = script.ArraysOnly(io.BytesIO(pickle.dumps({"a": array}))).load()
    assert np.array_equal(read["a"], array)
    with pytest.raises(pickle.UnpicklingError, match="only NumPy arrays"):
        script.ArraysOnly(io.BytesIO(pickle.dumps(os.system))).load()
