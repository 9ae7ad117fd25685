"""Targets of inputs that are not of the model's own size point at what those inputs give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from whylight.errors import InvalidInput
from whylight.models import wrap_module
from whylight.target import Neuron, OutputIndex, Region


@pytest.fixture
def dense():
    """Return a dense model `[3, H, W]` whose own size is 64 x 64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()
    return wrap_module(net, input_size=(64, 64))


@pytest.mark.parametrize("size", [(64, 64), (16, 24), (96, 80)])
def test_a_region_is_a_share_of_the_output_of_this_input(dense, batch, size):
    height, width = size
    inputs = torch.rand(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    work = batch(inputs, [Region(1, 0.5, 0.25, 1.0, 0.75)])
    rows, columns = slice(height // 4, 3 * height // 4), slice(width // 2, width)
    expected = dense.module(inputs)[0, 1, rows, columns].sum()
    subject = dense.subject()
    gradients = subject.input_gradients(work)
    assert subject.resolve(work)[0].score == pytest.approx(float(expected), rel=1e-12)
    assert not gradients[0, :, : height // 4 - 1].any()
    assert not gradients[0, :, :, : width // 2 - 1].any()
    assert gradients[0, :, rows, columns].abs().sum() > 0


def test_a_position_that_a_small_input_has_not_is_refused(dense, batch):
    inputs = torch.rand(1, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for target in (Neuron("0", 1, (20, 3)), OutputIndex((1, 20, 3))):
        for ask in (dense.subject().input_gradients, dense.subject().resolve):
            with pytest.raises(InvalidInput, match="is not in") as caught:
                ask(batch(inputs, [target]))
            assert caught.value.reason == "TARGET_INVALID"
