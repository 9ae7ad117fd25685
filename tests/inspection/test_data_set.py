"""Data sets: what is listed, what is left out, what is refused, and how they come from the settings to a worker."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from PIL import Image

import whylight
from whylight.limits import Limits
from whylight.settings import load_settings
from whylight.worker.config import WorkerConfig

PLAIN = whylight.Transform.plain((8, 8))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "set"
    for name in ("b/two.png", "a/one.jpg", "top.webp", ".hidden/x.png", "a/.hidden.png", "a/notes.txt"):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (10, 20, 30)).save(path, "PNG" if path.suffix != ".jpg" else "JPEG")
    return place


def test_pictures_are_listed_in_order_with_the_names_of_their_folders(folder):
    found = whylight.DataSet("set", folder)
    assert [(file.path, file.label) for file in found.files] == [
        ("a/one.jpg", "a"),
        ("b/two.png", "b"),
        ("top.webp", ""),
    ]
    pixels = found.fitted(1, PLAIN)
    assert pixels.shape == (8, 8, 3)
    assert pixels[4, 4].tolist() == [10, 20, 30]


def test_the_digest_changes_with_a_picture_and_with_nothing_else(folder):
    before = whylight.DataSet("set", folder).digest
    assert whylight.DataSet("other", folder).digest == before
    (folder / "a" / "notes.txt").write_text("changed")
    assert whylight.DataSet("set", folder).digest == before
    Image.new("RGB", (21, 10)).save(folder / "b" / "two.png")
    changed = whylight.DataSet("set", folder).digest
    (folder / "b" / "two.png").unlink()
    assert len({before, changed, whylight.DataSet("set", folder).digest}) == 3


def test_bad_files_are_none(folder):
    (folder / "b" / "two.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    assert whylight.DataSet("set", folder).fitted(1, PLAIN) is None
    Image.new("RGB", (30, 30)).save(folder / "b" / "two.png")
    assert whylight.DataSet("set", folder, Limits(image_pixels=899)).fitted(1, PLAIN) is None
    assert whylight.DataSet("set", folder, Limits(message_bytes=50)).fitted(1, PLAIN) is None
    assert whylight.DataSet("set", folder, Limits(image_pixels=900)).fitted(1, PLAIN) is not None
    listed = whylight.DataSet("set", folder)
    (folder / "b" / "two.png").unlink()
    assert listed.fitted(1, PLAIN) is None


def test_a_model_that_takes_no_pictures_is_no_bad_file(folder):
    with pytest.raises(whylight.Unsupported, match="channels"):
        whylight.DataSet("set", folder).fitted(0, whylight.Transform.plain((8, 8), 5))


def test_links_to_folders_are_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "elsewhere" / "secret.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(whylight.DataSet("set", folder)) == 3


def test_an_archive_lies_about_nothing(folder, tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "a" / "one.jpg", "../one.jpg")
        archive.writestr("large.png", bytes(10_000))
    found = whylight.DataSet("set", path, Limits(message_bytes=5_000))
    assert [file.path for file in found.files] == ["../one.jpg", "large.png"]
    np.testing.assert_array_equal(found.fitted(0, PLAIN), whylight.DataSet("set", folder).fitted(0, PLAIN))
    assert found.fitted(1, PLAIN) is None


def test_names_that_are_not_there_and_places_that_cannot_be_read_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    paths = {"flowers": folder, "gone": tmp_path / "gone", "empty": tmp_path / "empty", "text": tmp_path / "text.zip"}
    sets = whylight.DataSets(paths)
    assert len(sets.open("flowers")) == 3
    with pytest.raises(whylight.NotFound, match="'flowers'") as caught:
        sets.open("flower")
    assert caught.value.reason == "DATA_SET_NOT_FOUND"
    with pytest.raises(whylight.NotFound):
        sets.open(str(folder))
    for name in ("gone", "empty", "text"):
        with pytest.raises(whylight.Unsupported) as refused:
            sets.open(name)
        assert refused.value.reason == "DATA_SET_UNREADABLE"
        assert str(tmp_path) not in refused.value.message


def test_an_operator_sets_them_up(tmp_path):
    path = tmp_path / "whylight.toml"
    path.write_text('cache_folder = "/var/cache/whylight"\n[data_sets]\nflowers = "/srv/flowers"\n')
    settings = load_settings(path)
    assert settings.data_sets == {"flowers": "/srv/flowers"}
    config = WorkerConfig(data_sets=settings.data_sets, cache_folder=settings.cache_folder)
    assert WorkerConfig.from_json(config.to_json()) == config
