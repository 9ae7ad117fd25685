"""What inspections show: the numbers of plain torch, the strongest channels, grids in which every map has its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import whylight
from whylight.models import wrap_module
from whylight.testing import relu_net, run_inspection
from whylight_inspection import Activations, Filters, Layers, Predictions
from whylight_inspection.contact_sheet import coloured, contact_sheet


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(3))


def artifact(found, name):
    (one,) = (artifact for artifact in found.artifacts if artifact.name == name)
    return one


def test_activations_are_those_of_the_layer_the_strongest_first(inputs):
    net = relu_net()
    _, found = run_inspection(Activations, net, {"layer": "features.1", "count": 5}, inputs=inputs[:1])
    maps = net.features[:2](inputs[:1])[0].detach()
    strongest = maps.abs().mean((1, 2)).argsort(descending=True)[:5]
    np.testing.assert_allclose(artifact(found, "activations").array, maps[strongest], atol=1e-6)
    assert [row[0] for row in artifact(found, "channels").rows] == strongest.tolist()
    assert found.checks["dead_share"] == pytest.approx(float((maps.amax((1, 2)) <= 0).float().mean()))
    assert artifact(found, "grid").image().size[0] > 3 * 56


def test_a_dead_channel_is_counted(inputs):
    net = relu_net()
    with torch.no_grad():
        net.features[0].bias[2] = -1000.0
    _, found = run_inspection(Activations, net, {"layer": "features.1", "channels": [2]}, inputs=inputs[:1])
    assert found.checks["dead_share"] >= 1 / 8
    assert not artifact(found, "activations").array.any()


@pytest.mark.parametrize(
    ("options", "given", "field"),
    [
        ({"layer": "features.0", "channels": [8]}, 1, "options.channels"),
        ({"layer": "classifier.0"}, 1, "options.layer"),
        ({}, 2, "inputs"),
        ({}, 0, "inputs"),
    ],
)
def test_what_cannot_be_shown_is_refused(inputs, options, given, field):
    with pytest.raises(whylight.InvalidInput) as caught:
        run_inspection(Activations, relu_net(), options, inputs=inputs[:given])
    assert [violation.field for violation in caught.value.violations] == [field]


def test_filters_of_the_first_layer_are_colours():
    net = relu_net()
    _, found = run_inspection(Filters, net)
    np.testing.assert_array_equal(artifact(found, "filters").array, net.features[0].weight.detach())
    image = np.asarray(artifact(found, "grid").image())
    side = (image.shape[0] - 1) // 3 - 1
    first = net.features[0].weight.detach()[0]
    shades = (first - first.min()) / (first.max() - first.min())
    assert side % 3 == 0
    assert image[1, 1].tolist() == (shades[:, 0, 0] * 255).round().int().tolist()
    assert image[side, side].tolist() == (shades[:, 2, 2] * 255).round().int().tolist()


def test_filters_on_many_channels_are_drawn_slice_by_slice():
    _, found = run_inspection(Filters, relu_net(), {"layer": "features.3", "count": 2, "slices": 3})
    assert artifact(found, "filters").array.shape == (2, 8, 3, 3)


def test_a_layer_without_filters_is_refused():
    with pytest.raises(whylight.InvalidInput, match="no layer with the weights"):
        run_inspection(Filters, wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)), input_size=(8, 8)))
    with pytest.raises(whylight.InvalidInput, match=r"'features\.1' is none"):
        run_inspection(Filters, relu_net(), {"layer": "features.1"})


def test_filters_are_copies():
    model = wrap_module(relu_net())
    model.parameters_of("features.0")["weight"].zero_()
    assert model.parameters_of("features.0")["weight"].any()


def test_predictions_are_the_models(inputs):
    net = relu_net()
    _, found = run_inspection(Predictions, net, {"count": 2}, inputs=inputs)
    shares = net(inputs).softmax(1).detach()
    rows = artifact(found, "predictions").rows
    assert [row[:3] for row in rows] == [
        (row, rank, int(shares[row].argsort(descending=True)[rank])) for row in range(2) for rank in range(2)
    ]
    assert rows[0][5] == pytest.approx(float(shares[0].max()), rel=1e-5)
    assert found.checks["entropy"] == pytest.approx(float(-(shares[0] * shares[0].log2()).sum()), rel=1e-5)


def test_the_layers_are_listed_in_order():
    net = relu_net()
    _, found = run_inspection(Layers, wrap_module(net, input_size=(24, 32)))
    rows = artifact(found, "layers").rows
    assert [row[0] for row in rows] == [name for name, _ in net.named_modules() if name]
    assert rows[1] == ("features.0", "Conv2d", "8 x 24 x 32", 8 * 27 + 8)


def test_a_sheet_has_its_pictures_row_by_row():
    pictures = torch.stack([torch.full((2, 3, 3), value, dtype=torch.uint8) for value in (10, 20, 30)])
    sheet = contact_sheet(pictures, least_side=6)
    assert sheet.shape == (2 * 5 + 1, 2 * 7 + 1, 3)
    assert [int(sheet[1, 1, 0]), int(sheet[1, 8, 0]), int(sheet[6, 1, 0]), int(sheet[6, 8, 0])] == [10, 20, 30, 255]


def test_colours_of_signed_maps_have_zero_in_the_middle():
    maps = torch.tensor([[[-2.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])
    table = whylight.ops.colour_table("bwr")
    pictures = coloured(maps, "bwr", signed=True)
    assert torch.equal(pictures[0, 0], table[[0, 128, 191]])
    assert torch.equal(pictures[1, 0, 0], table[128])
