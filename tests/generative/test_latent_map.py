"""Latent maps: the plane of scikit-learn's PCA and t-SNE, points with the labels of their folders."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import whylight
from whylight.models import wrap_module
from whylight.testing import run_inspection
from whylight_generative import LatentMap
from whylight_generative.latent_map import principal_plane
from whylight_generative.variational_autoencoder import VAE_32, VariationalAutoencoder

PLAIN = whylight.Transform.plain((32, 32), 1)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VariationalAutoencoder(VAE_32).eval()


@pytest.fixture(scope="module")
def model(network):
    return wrap_module(network, transform=PLAIN, output="reconstruction", latent="mean")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Twenty pictures in two folders, bright and dark, and a file that is no picture."""
    place = tmp_path_factory.mktemp("set")
    random = np.random.default_rng(0)
    for name, low in (("bright", 150), ("dark", 0)):
        (place / name).mkdir()
        for number in range(10):
            pixels = random.integers(low, low + 100, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    (place / "bright" / "broken.png").write_bytes(b"no picture")
    return whylight.DataSets({"pictures": place})


@pytest.fixture(scope="module")
def codes(network, sets):
    found = sets.open("pictures")
    pixels = [found.fitted(index, PLAIN) for index in range(len(found))]
    inputs = torch.from_numpy(np.stack([one for one in pixels if one is not None])).permute(0, 3, 1, 2) / 255
    return network.encoder(inputs)[0].detach().double().numpy()


def artifact(found, name):
    (one,) = (artifact for artifact in found.artifacts if artifact.name == name)
    return one


def plane_of(found):
    return np.array([(point.x, point.y) for point in artifact(found, "codes").points])


def test_pca_is_that_of_scikit_learn(model, sets, codes):
    steps, found = run_inspection(LatentMap, model, {"data_set": "pictures"}, data_sets=sets)
    oracle = PCA(2)
    expected = oracle.fit_transform(codes)
    signs = np.sign((expected * plane_of(found)).sum(0))
    np.testing.assert_allclose(plane_of(found), expected * signs, atol=1e-5 * np.abs(expected).max())
    assert found.checks == {"unreadable": 1.0, "explained": pytest.approx(oracle.explained_variance_ratio_.sum())}
    assert [point.label for point in artifact(found, "codes").points] == ["bright"] * 10 + ["dark"] * 10
    assert [row[0] for row in artifact(found, "pictures").rows][:2] == ["bright/0.png", "bright/1.png"]
    assert [(step.step, step.total) for step in steps] == [(16, 21), (21, 21)]


def test_t_sne_is_that_of_scikit_learn_with_the_callers_seed(model, sets, codes):
    options = {"data_set": "pictures", "projection": "t-sne", "perplexity": 5}
    _, found = run_inspection(LatentMap, model, options, data_sets=sets, seed=7)
    oracle = TSNE(2, perplexity=5, init="pca", random_state=7)
    expected = oracle.fit_transform(codes)
    assert found.checks["divergence"] == pytest.approx(oracle.kl_divergence_, rel=0.2)
    assert plane_of(found).shape == expected.shape
    _, again = run_inspection(LatentMap, model, options, data_sets=sets, seed=7)
    np.testing.assert_array_equal(plane_of(again), plane_of(found))


def test_the_picture_has_a_colour_for_each_label(model, sets):
    _, found = run_inspection(LatentMap, model, {"data_set": "pictures"}, data_sets=sets)
    image = artifact(found, "picture").image()
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert image.size == (640, 640)
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # the first two of tab10


def test_directions_have_a_sign_of_their_own():
    codes = np.random.default_rng(1).normal(size=(30, 5)) * [5, 3, 1, 1, 1]
    plane, explained = principal_plane(codes)
    mirrored, _ = principal_plane(-codes)
    np.testing.assert_allclose(plane, -mirrored, atol=1e-9)
    assert 0.7 < explained < 1
    one, _ = principal_plane(codes[:, :1])
    assert not one[:, 1].any()


def test_codes_that_are_all_the_same_lie_in_one_place():
    plane, explained = principal_plane(np.ones((4, 3)))
    assert not plane.any()
    assert explained == 1.0


def test_without_scikit_learn_t_sne_is_refused_and_pca_is_not(model, sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(whylight.Unsupported, match=r"whylight\[generative\]"):
        run_inspection(LatentMap, model, {"data_set": "pictures", "projection": "t-sne"}, data_sets=sets)
    run_inspection(LatentMap, model, {"data_set": "pictures"}, data_sets=sets)


def test_what_cannot_be_mapped_is_refused(model, sets, tmp_path):
    options = {"data_set": "pictures", "projection": "t-sne", "perplexity": 20}
    with pytest.raises(whylight.InvalidInput, match="below the 20 pictures"):
        run_inspection(LatentMap, model, options, data_sets=sets)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(whylight.Unsupported, match="0 of 3"):
        run_inspection(LatentMap, model, {"data_set": "a"}, data_sets=whylight.DataSets({"a": tmp_path}))
