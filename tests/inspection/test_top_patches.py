"""Top patches: the same as by looking at everything, cut to receptive fields that are known by hand, index kept."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import nn

import whylight
from whylight.models import wrap_module
from whylight.subject import CancelToken
from whylight.testing import run_inspection
from whylight_inspection import TopPatches
from whylight_inspection.channel_index import ChannelIndex
from whylight_inspection.receptive_field import receptive_fields

SIZE = (32, 48)


class Known(nn.Module):
    """3 x 3, pooling, 5 x 5 of stride 2, all padded: a unit sees 16 x 16 pixels, 4 apart, from -6 on."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 6, 5, stride=2, padding=2)
        self.head = nn.Linear(6, 3)

    def forward(self, inputs):
        maps = nn.functional.max_pool2d(self.one(inputs).relu(), 2)
        return self.head(self.two(maps).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return wrap_module(Known(), transform=whylight.Transform.plain(SIZE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty crops of photos in folders named for them, and a file that is no picture."""
    place = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        photo = getattr(skimage.data, name)()
        (place / name).mkdir()
        for number in range(10):
            top, left = 13 * number, 29 * number % 200
            Image.fromarray(photo[top : top + 64, left : left + 96]).save(place / name / f"{number}.png")
    (place / "chelsea" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return place


def sets(folder, cache=None):
    return whylight.DataSets({"photos": folder}, cache)


def artifact(found, name):
    (one,) = (artifact for artifact in found.artifacts if artifact.name == name)
    return one


def brute_force(model, folder, channel):
    """Every picture by itself: its path, its maximum and where it is, the highest first."""
    found = []
    for path in sorted(folder.rglob("*.png"), key=lambda path: path.relative_to(folder).as_posix()):
        pixels = model.transform.fit(Image.open(path)).pixels
        inputs = model.transform.normalise(torch.from_numpy(pixels[None]))
        maps = model.subject().observe(inputs, ("two",)).layers["two"][0, channel].detach()
        found.append(
            (path.relative_to(folder).as_posix(), float(maps.max()), divmod(int(maps.argmax()), maps.shape[1]))
        )
    return sorted(found, key=lambda one: -one[1])


def by_hand(down, across):
    """What the unit sees by hand: 4 y - 5 - 2 + 1 to 16 further, within the input."""
    top, left = 4 * down - 5, 4 * across - 5
    return max(0, left), max(0, top), min(SIZE[1], left + 12), min(SIZE[0], top + 12)


@pytest.mark.parametrize("channel", [0, 3])
def test_the_patches_are_those_of_a_search_of_everything(model, folder, channel):
    _, found = run_inspection(
        TopPatches, model, {"data_set": "photos", "layer": "two", "channel": channel}, data_sets=sets(folder)
    )
    rows = artifact(found, "table").rows
    expected = brute_force(model, folder, channel)[:9]
    assert [row[1] for row in rows] == [path for path, _, _ in expected]
    assert [row[3] for row in rows] == pytest.approx([value for _, value, _ in expected], rel=1e-5)
    assert [row[4:6] for row in rows] == [place for _, _, place in expected]
    assert [row[2] for row in rows] == [path.split("/")[0] for path, _, _ in expected]
    assert found.checks == {"seen": 30.0, "unreadable": 1.0}
    for row in rows:
        left, top, right, bottom = row[6:]
        assert (left, top, right, bottom) == by_hand(*row[4:6])
        pixels = model.transform.fit(Image.open(folder / row[1])).pixels
        np.testing.assert_array_equal(artifact(found, f"patch-{row[0]}").image(), pixels[top:bottom, left:right])
    assert artifact(found, "patches").image().size[0] > 3 * 12


def test_fields_are_exact_everywhere(model):
    units = [whylight.Neuron("two", 1, place) for place in ((0, 0), (3, 4), (7, 11), (0, 11), (7, 0), (4, 5))]
    found = receptive_fields(model.subject(), torch.zeros(1, 3, *SIZE), units, CancelToken())
    assert found == [by_hand(*unit.position) for unit in units]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (lambda: [nn.Conv2d(3, 4, 3, dilation=3, padding=3)], (7, 5, 14, 12)),
        (lambda: [nn.MaxPool2d(3, 1, 1, 2)], (9, 7, 14, 12)),
        (
            lambda: [nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8)],
            (7, 7, 14, 10),
        ),
        (lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm(24)], (0, 7, 24, 10)),
        (lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.Softmax(2)], (9, 0, 12, 20)),
        (lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)], (0, 0, 24, 20)),
        (lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.AvgPool2d(3, 1, 1)], (8, 6, 13, 11)),
        (lambda: [nn.Conv2d(3, 4, 2, stride=2), nn.ConvTranspose2d(4, 4, 2, stride=2)], (10, 8, 12, 10)),
    ],
)
def test_fields_of_other_layers_are_what_they_are_by_hand(layers, expected):
    """Of the unit 8 down and 10 across of a 20 x 24 input."""

    class Tailed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*layers())

        def forward(self, inputs):
            return self.body(inputs).mean((2, 3))

    subject = wrap_module(Tailed(), input_size=(20, 24)).subject()
    unit = whylight.Neuron("body", 2, (8, 10))
    assert receptive_fields(subject, torch.zeros(1, 3, 20, 24), [unit], CancelToken()) == [expected]


def test_weights_of_zero_and_dead_units_are_of_the_field_too():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = Known()
    with torch.no_grad():
        net.one.weight.zero_()
        net.one.bias.fill_(-5.0)
    subject = wrap_module(net, input_size=SIZE).subject()
    unit = whylight.Neuron("two", 0, (3, 4))
    assert receptive_fields(subject, torch.zeros(1, 3, *SIZE), [unit], CancelToken()) == [by_hand(3, 4)]


def test_an_element_of_a_vector_sees_everything(model, folder):
    _, found = run_inspection(
        TopPatches, model, {"data_set": "photos", "layer": "head", "channel": 1, "count": 2}, data_sets=sets(folder)
    )
    assert [row[6:] for row in artifact(found, "table").rows] == [(0, 0, SIZE[1], SIZE[0])] * 2


@pytest.fixture
def counted(monkeypatch):
    seen = []
    fitted = whylight.DataSet.fitted
    monkeypatch.setattr(
        whylight.DataSet,
        "fitted",
        lambda self, index, transform: (seen.append(index), fitted(self, index, transform))[1],
    )
    return seen


def test_the_index_goes_on_where_it_was_stopped_and_is_made_once(model, folder, tmp_path, counted, monkeypatch):
    monkeypatch.setattr("whylight_inspection.channel_index.BLOCK", 8)
    options = {"data_set": "photos", "layer": "two", "channel": 0, "count": 1}
    task = whylight.InspectionTask(torch.empty(0), (), 0, CancelToken(), sets(folder, tmp_path))
    going = TopPatches().inspect(model.subject(), task, TopPatches.Options(**options))
    while len(counted) < 20:
        assert isinstance(next(going), whylight.Progress)
    going.close()
    assert len(list(tmp_path.rglob("*.npz"))) == 2
    assert not list(tmp_path.rglob("*.part"))
    counted.clear()
    _, resumed = run_inspection(TopPatches, model, options, data_sets=sets(folder, tmp_path))
    assert counted[:-1] == list(range(16, 31))  # and the best one again, to be cut
    counted.clear()
    _, kept = run_inspection(TopPatches, model, {**options, "channel": 4}, data_sets=sets(folder, tmp_path))
    assert len(counted) == 1
    _, alone = run_inspection(TopPatches, model, options, data_sets=sets(folder))
    assert artifact(resumed, "table").rows == artifact(alone, "table").rows
    assert artifact(kept, "table").rows[0][1] == brute_force(model, folder, 4)[0][0]


def test_another_model_layer_or_picture_has_another_index(model, folder, tmp_path):
    def place(model, layer, folder):
        return ChannelIndex(model.subject(), layer, sets(folder).open("photos"), tmp_path)._folder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        other = wrap_module(Known(), transform=whylight.Transform.plain(SIZE))
    more = tmp_path / "more"
    more.mkdir()
    Image.new("RGB", (9, 9)).save(more / "a.png")
    ways = [(model, "two", folder), (model, "one", folder), (other, "two", folder), (model, "two", more)]
    assert len({place(*way) for way in ways}) == 4
    assert place(*ways[0]) == place(*ways[0])


def test_progress_rises_to_the_whole(model, folder):
    steps, _ = run_inspection(TopPatches, model, {"data_set": "photos", "layer": "two"}, data_sets=sets(folder))
    assert [step.step for step in steps] == [16, 31]
    assert {step.total for step in steps} == {31}


@pytest.mark.parametrize("pictures", ["deconvnet", "guided"])
def test_excitations_are_those_of_the_rules(model, folder, pictures):
    options = {"data_set": "photos", "layer": "two", "channel": 3, "count": 1, "pictures": pictures}
    _, found = run_inspection(TopPatches, model, options, data_sets=sets(folder))
    (row,) = artifact(found, "table").rows
    pixels = model.transform.fit(Image.open(folder / row[1])).pixels
    inputs = model.transform.normalise(torch.from_numpy(pixels[None]))
    rule = whylight.DeconvnetRelu() if pictures == "deconvnet" else whylight.GuidedRelu()
    batch = whylight.Batch(inputs, (whylight.Neuron("two", 3, row[4:6]),), (0,), CancelToken(), (0,))
    gradient = model.subject().input_gradients(batch, rule=rule)[0]
    left, top, right, bottom = row[6:]
    assert gradient.any()
    outside = gradient.clone()
    outside[:, top:bottom, left:right] = 0
    assert not outside.any()
    shown = np.asarray(artifact(found, "excitations").image())
    assert shown.std() > 5


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"data_set": "phots", "layer": "two"}, whylight.NotFound, "'photos'"),
        ({"data_set": "photos", "layer": "two", "channel": 6}, whylight.InvalidInput, "no channel 6; there are 6"),
        ({"data_set": "photos", "layer": "three"}, whylight.NotFound, "three"),
    ],
)
def test_what_is_not_there_is_refused(model, folder, options, error, match):
    with pytest.raises(error, match=match):
        run_inspection(TopPatches, model, options, data_sets=sets(folder))


def test_an_archive_gives_what_the_folder_gives(model, folder, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder).as_posix())
    (tmp_path / "photos.zip").write_bytes(packed.getvalue())
    options = {"data_set": "photos", "layer": "two", "channel": 2, "count": 3}
    _, one = run_inspection(TopPatches, model, options, data_sets=sets(folder))
    _, other = run_inspection(TopPatches, model, options, data_sets=sets(tmp_path / "photos.zip"))
    assert artifact(one, "table").rows == artifact(other, "table").rows
    assert artifact(one, "patches").data == artifact(other, "patches").data
