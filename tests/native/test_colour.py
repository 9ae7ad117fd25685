"""Colour tables: matplotlib's, shared, and a typed error for what it has not."""

import matplotlib
import numpy as np
import pytest
import torch

from whylight import ops
from whylight.errors import InvalidInput


@pytest.mark.parametrize("name", ["turbo", "bwr", "jet", "viridis", "tab10"])
def test_a_table_is_matplotlibs(name):
    table = ops.colour_table(name)
    assert table.dtype == torch.uint8
    expected = np.stack([matplotlib.colormaps[name](i / 255, bytes=True)[:3] for i in range(256)])
    np.testing.assert_array_equal(table.numpy(), expected)


def test_an_unknown_name_is_refused_with_close_ones():
    with pytest.raises(InvalidInput, match="unknown colour map 'virids'; close: viridis") as caught:
        ops.colour_table("virids")
    assert caught.value.reason == "OUTPUT_INVALID"
    assert caught.value.violations[0].field == "picture.colour_map"
