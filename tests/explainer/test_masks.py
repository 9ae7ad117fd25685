"""The mask of a map is its largest connected part, and the first box is drawn around it: closed cases."""

from __future__ import annotations

import numpy as np
import pytest

import whylight
from whylight.boxes import find_boxes, find_mask
from whylight.testing import conv_gap_net
from whylight_cam import LayerCAM

VALUES = np.array(
    [
        [1.0, 0.0, 0.0, 0.0, 0.2],
        [0.0, 0.5, 0.0, 0.2, 0.2],
        [0.0, 0.0, 0.0, 0.2, 0.14],
        [0.9, 0.9, 0.0, 0.0, 0.0],
    ],
    np.float32,
)


def test_the_largest_part_wins_over_the_highest():
    assert find_mask(VALUES, 0.15).tolist() == [
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]


def test_parts_hang_together_over_corners_and_the_first_of_equal_ones_is_taken():
    assert find_mask(VALUES, 0.3).tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("values", [np.zeros((3, 4), np.float32), np.full((3, 4), -1, np.float32)])
def test_a_map_that_is_nowhere_positive_has_no_mask(values):
    assert not find_mask(values, 0.15).any()


def test_the_first_box_is_that_of_the_mask():
    noise = np.random.default_rng(0).random((40, 23, 31)).astype(np.float32)
    for values in noise:
        for threshold in (0.5, 0.8):
            rows, columns = np.nonzero(find_mask(values, threshold))
            (box,) = find_boxes(values, threshold, 1)
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (box.left, box.top, box.right, box.bottom) == edges


@pytest.mark.parametrize("canvas", [whylight.Canvas.INPUT, whylight.Canvas.ORIGINAL])
def test_a_caller_gets_masks_that_fit_the_boxes(canvas):
    picture = np.random.default_rng(1).integers(0, 256, (90, 61, 3), dtype=np.uint8)
    outputs = [whylight.MaskOutput(canvas=canvas), whylight.BoxesOutput(canvas=canvas)]
    explained = whylight.explain(conv_gap_net(), picture, LayerCAM, outputs=outputs, target=1)
    explained = explained[0] if isinstance(explained, list) else explained
    mask = explained.explanation["mask"].array
    width, height = explained.input_size if canvas is whylight.Canvas.INPUT else explained.original_size
    assert mask.shape == (height, width)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    rows, columns = np.nonzero(mask)
    (box,) = explained.explanation.boxes
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(edges - np.array([box.left, box.top, box.right, box.bottom])).max() <= 1


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.0}, {"canvas": whylight.Canvas.NATIVE}])
def test_what_is_no_mask_is_refused(wrong):
    with pytest.raises(whylight.InvalidInput) as caught:
        whylight.MaskOutput(**wrong)
    assert caught.value.violations[0].field == f"mask.{next(iter(wrong))}"
