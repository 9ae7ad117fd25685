"""Connected parts against scikit-image's labelling, and the boxes of maps drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whylight.artifact import Box
from whylight.boxes import connected_parts, find_boxes

measure = pytest.importorskip("skimage.measure")


def expected(mask: np.ndarray) -> list[tuple[int, ...]]:
    regions = measure.regionprops(measure.label(mask, connectivity=2))
    return sorted((r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2], int(r.area)) for r in regions)


def found(mask: np.ndarray) -> list[tuple[int, ...]]:
    extents, areas = connected_parts(mask)
    return sorted((*map(int, extent), int(area)) for extent, area in zip(extents, areas, strict=True))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_parts_are_those_of_scikit_image(height, width, density, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density
    assert found(mask) == expected(mask)


def spiral(size: int) -> np.ndarray:
    """One part whose ends lie far apart: the worst case of labelling by spreading."""
    mask = np.zeros((size, size), bool)
    top, left, bottom, right = 0, 0, size - 1, size - 1
    while top <= bottom and left <= right:
        mask[top, left : right + 1] = True
        mask[top : bottom + 1, right] = True
        mask[bottom, left : right + 1] = True
        mask[top + 2 : bottom + 1, left] = True
        if top + 2 <= bottom:
            mask[top + 2, left : left + 2] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((3, 4), bool),
        np.ones((3, 4), bool),
        np.eye(9, dtype=bool),
        np.eye(9, dtype=bool)[::-1],
        np.indices((40, 40)).sum(0) % 2 == 0,
        spiral(61),
        np.tile(np.array([[1, 0]], bool), (30, 15)),
    ],
    ids=["empty", "full", "diagonal", "antidiagonal", "checks", "spiral", "stripes"],
)
def test_parts_of_odd_shapes(mask):
    assert found(mask) == expected(mask)


def test_the_largest_part_comes_first_not_the_highest():
    values = np.zeros((8, 10), np.float32)
    values[0, 0] = 1.0
    values[3:6, 4:9] = 0.5
    assert find_boxes(values, 0.15, 5) == (Box(4, 3, 9, 6, 0.5), Box(0, 0, 1, 1, 1.0))
    assert find_boxes(values, 0.15, 1) == (Box(4, 3, 9, 6, 0.5),)
    assert find_boxes(values, 0.6, 5) == (Box(0, 0, 1, 1, 1.0),)


def test_the_threshold_is_a_fraction_of_the_maximum_and_excluded():
    values = np.array([[0.25, 0.5, 0.0, 0.24]], np.float32)
    assert find_boxes(values, 0.5, 5) == (Box(1, 0, 2, 1, 0.5),)


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_a_map_without_anything_positive_has_no_boxes(level):
    assert find_boxes(np.full((4, 4), level, np.float32), 0.15, 3) == ()
