"""What relevance keeps until its way back: nothing as large as the weights; knows no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from whylight_relevance.rules import AlphaBeta, Flat, Gamma, LinearMap, WSquare, ZPlus

RULES = [ZPlus(), AlphaBeta(), Gamma(), WSquare(), Flat()]


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("rule", RULES)
def test_no_copy_of_the_weights_is_kept(rule):
    """A layer of 64 MiB: what its rules make of it would be as much each."""
    weight = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    input = torch.randn(2, 4096, generator=torch.Generator().manual_seed(1))
    linear = LinearMap(F.linear, input, weight, None, "layer")
    rule.share(linear, None)(torch.ones(2, 4096))  # Whatever torch sets up when it first runs is there now.
    before = resident()
    share = rule.share(linear, None)
    assert resident() - before < weight.nbytes // 2
    assert share(torch.ones(2, 4096))[0].shape == input.shape


@pytest.mark.parametrize("rule", RULES)
def test_in_blocks_and_with_a_scale_relevance_is_the_same(rule):
    source = torch.Generator().manual_seed(0)
    weight, scale, bias = (torch.randn(shape, generator=source).double() for shape in ((10, 6), (10,), (10,)))
    input, relevance = (torch.randn(3, length, generator=source).double() for length in (6, 10))
    scaled = weight * scale[:, None]
    (expected,) = rule.share(LinearMap(F.linear, input, scaled, bias, "layer"), None)(relevance)
    (given,) = rule.share(LinearMap(F.linear, input, weight, bias, "layer", scale=scale, rows=4), None)(relevance)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
