"""What stands for "nothing to see": values, the blur against its definition, bits alone and in a batch."""

from __future__ import annotations

import math

import pytest
import torch

import whylight
from whylight.baselines import BLUR
from whylight.models import Transform

INPUTS = torch.randn(3, 3, 40, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PLAIN = Transform.plain((40, 64))


@pytest.mark.parametrize(("kind", "shade"), [("black", 0.0), ("grey", 0.5), ("white", 1.0)])
def test_shades_are_those_of_the_picture_before_it_was_normalised(kind, shade):
    transform = Transform(
        resize=None, crop=(40, 64), mean=(0.2, 0.3, 0.4), std=(0.5, 0.25, 2.0), scale=1.0, channel_order="bgr"
    )
    made = whylight.baseline(kind, INPUTS, transform)
    assert made.shape == INPUTS.shape
    for channel, (mean, std) in enumerate(zip(transform.mean, transform.std, strict=True)):
        torch.testing.assert_close(
            made[:, channel], torch.full_like(INPUTS[:, 0], (shade * 255 / transform.scale - mean) / std)
        )


def test_zero_and_the_mean_colour():
    assert not whylight.baseline("zero", INPUTS, PLAIN).any()
    torch.testing.assert_close(
        whylight.baseline("mean", INPUTS, PLAIN), INPUTS.mean((2, 3), keepdim=True).expand_as(INPUTS)
    )


def test_the_blur_is_a_gaussian_of_a_tenth_of_the_shorter_side_that_is_normalised_at_the_edges():
    point = torch.zeros(1, 3, 40, 64, dtype=torch.float64)
    point[..., 20, 30] = 1
    made = whylight.baseline("blur", point, PLAIN)[0, 0]
    ratio = float(made[20, 30 + 4] / made[20, 30])
    assert ratio == pytest.approx(math.exp(-0.5 * (4 / (BLUR * 40)) ** 2), rel=1e-3)
    torch.testing.assert_close(whylight.baseline("blur", torch.ones_like(point), PLAIN), torch.ones_like(point))


@pytest.mark.parametrize("kind", whylight.BASELINES)
def test_an_input_gets_the_same_bits_alone_and_in_a_batch(kind):
    together = whylight.baseline(kind, INPUTS.float(), PLAIN)
    for row, input in enumerate(INPUTS.float().split(1)):
        assert torch.equal(whylight.baseline(kind, input, PLAIN)[0], together[row])
