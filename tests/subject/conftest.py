"""What the tests of the subject share: batches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from whylight.method import Batch
from whylight.subject import CancelToken

sys.path.insert(0, str(Path(__file__).parent))


def make_batch(inputs, targets, rows=None, cancel=None):
    rows = tuple(range(len(inputs))) if rows is None else tuple(rows)
    return Batch(inputs, tuple(targets), rows, cancel or CancelToken())


@pytest.fixture
def batch():
    return make_batch


@pytest.fixture
def noise():
    """Inputs of normal noise: (count, height, width), float64."""

    def draw(count=3, height=16, width=16, dtype=torch.float64, seed=1):
        source = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, height, width, generator=source, dtype=torch.float64).to(dtype)

    return draw
