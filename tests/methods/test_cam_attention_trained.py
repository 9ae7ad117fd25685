"""On a transformer trained to name the colours of bright squares, both methods point at the squares."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from whylight.models import wrap_module
from whylight.testing import run_method
from whylight.testing.networks import TinyViT
from whylight_cam import AttentionRollout, Chefer

COLOURS = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 2, 0], [0, 2, 2]])
GRID = (4, 6)


def pictures(count, generator):
    """Noise with two squares of different colours, each on one patch; colours `[N, 2]` and patches `[N, 2]`."""
    images = torch.randn(count, 3, 32, 48, generator=generator) * 0.3
    colours = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(count)])
    patches = torch.stack([torch.randperm(24, generator=generator)[:2] for _ in range(count)])
    for image, two, places in zip(images, colours, patches, strict=True):
        for colour, place in zip(two.tolist(), places.tolist(), strict=True):
            top, left = 8 * (place // 6), 8 * (place % 6)
            image[:, top : top + 8, left : left + 8] += COLOURS[colour][:, None, None]
    return images, colours, patches


@pytest.fixture(scope="module")
def trained():
    """A model that says which of five colours are on a picture; and how often it is right on new ones."""
    source = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TinyViT(fused=True, width=32)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(250):
        images, colours, _ = pictures(32, source)
        wanted = torch.zeros(32, 5).scatter_(1, colours, 1.0)
        loss = nn.functional.binary_cross_entropy_with_logits(network(images), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    images, colours, _ = pictures(64, source)
    wanted = torch.zeros(64, 5).scatter_(1, colours, 1.0)
    right = ((network.eval()(images) > 0) == (wanted > 0)).float().mean()
    assert float(right) > 0.95
    return wrap_module(network.eval(), input_size=(32, 48)), pictures(40, source)


def test_chefer_points_at_the_square_of_the_colour_that_is_asked_for(trained):
    """The pointing game: the peak lies on the right one of 24 patches, and on another one for the other colour."""
    model, (images, colours, patches) = trained
    maps = run_method(Chefer, model, images, [tuple(two) for two in colours.tolist()]).maps
    assert maps.shape == (80, *GRID)
    hits = maps.flatten(1).argmax(1) == patches.flatten()
    assert float(hits.float().mean()) > 0.9


@pytest.mark.parametrize("options", [{}, {"head_fusion": "max", "discard_ratio": 0.8}])
def test_rollout_points_at_a_square(trained, options):
    """At either of the two: it does not know which was asked for."""
    model, (images, _, patches) = trained
    maps = run_method(AttentionRollout, model, images, None, options).maps
    hits = (maps.flatten(1).argmax(1)[:, None] == patches).any(1)
    assert float(hits.float().mean()) > 0.9
