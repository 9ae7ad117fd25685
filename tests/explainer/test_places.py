"""A map lies where the model looked, on every canvas: neither shifted, nor flipped, nor stretched."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from whylight import BoxesOutput, Canvas, ClassIndex, MapOutput, PictureOutput, PictureStyle, explain

OUTPUTS = (
    MapOutput("native"),
    MapOutput("input", Canvas.INPUT),
    MapOutput("original", Canvas.ORIGINAL),
    PictureOutput("overlay", style=PictureStyle.OVERLAY),
    PictureOutput("whole", canvas=Canvas.ORIGINAL),
    BoxesOutput("boxes-input", 0.5, canvas=Canvas.INPUT),
    BoxesOutput("boxes", 0.5),
)


def centre(array: np.ndarray) -> tuple[float, float]:
    """Return the centre of mass (x, y), in pixels from the upper left corner of the picture."""
    rows, columns = np.indices(array.shape)
    return float(((columns + 0.5) * array).sum() / array.sum()), float(((rows + 0.5) * array).sum() / array.sum())


def grey(width: int, height: int, level: int = 60) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("index", "place"), [(0, 0.25), (1, 0.75)])
def test_two_classes_look_at_two_corners(model, index, place, turned):
    width, height = (60, 90) if turned else (90, 60)
    left, top, right, bottom = (6, 21, 54, 69) if turned else (21, 6, 69, 54)
    explained = explain(model, grey(width, height), target=index, outputs=OUTPUTS)
    why = explained.explanation
    assert explained.original_size == (width, height)
    assert explained.input_size == (32, 32)
    assert why.target == ClassIndex(index)
    for name, extent in (("native", 8), ("input", 32)):
        assert why[name].array.shape == (extent, extent)
        assert centre(why[name].array) == pytest.approx((place * extent, place * extent), abs=0.1 * extent)
    whole = why["original"].array
    expected = (left + place * (right - left), top + place * (bottom - top))
    assert whole.shape == (height, width)
    assert centre(whole) == pytest.approx(expected, abs=1.5)
    outside = whole.copy()
    outside[top:bottom, left:right] = 0
    assert not outside.any()
    (box,) = why["boxes"].boxes
    assert ((box.left + box.right) / 2, (box.top + box.bottom) / 2) == pytest.approx(expected, abs=2)
    (box,) = why["boxes-input"].boxes
    assert ((box.left + box.right) / 2, (box.top + box.bottom) / 2) == pytest.approx((32 * place, 32 * place), abs=2)


@pytest.mark.parametrize("spot", [(57, 18), (27, 36), (21, 6), (63, 48), (39, 30)])
def test_a_bright_spot_is_found_where_it_is(model, spot):
    x, y = spot
    pixels = grey(90, 60, 0)
    pixels[y : y + 6, x : x + 6] = 255  # one cell of the native map
    why = explain(model, pixels, target=2, outputs=OUTPUTS).explanation
    assert centre(why["original"].array) == pytest.approx((x + 3, y + 3), abs=1.5)
    seen = (x / 1.5 - 14 + 2, y / 1.5 - 4 + 2)
    assert centre(why["input"].array) == pytest.approx(seen, abs=1)
    assert np.unravel_index(why["native"].array.argmax(), (8, 8)) == (int(seen[1] // 4), int(seen[0] // 4))


def test_colours_lie_where_the_map_is(model):
    pixels = Image.fromarray(grey(90, 60))
    upper, lower = (
        {name: np.asarray(why[name].image()).astype(int) for name in ("overlay", "whole")}
        for why in explain(model, pixels, target=[0, 1], outputs=OUTPUTS).explanations
    )
    # turbo: low is dark blue, high is red
    for name, (left, top, right, bottom) in (("overlay", (0, 0, 32, 32)), ("whole", (21, 6, 69, 54))):
        across, down = (right - left) // 4, (bottom - top) // 4
        first, last = (top + down, left + across), (bottom - down, right - across)
        assert upper[name][first][0] > upper[name][first][2]
        assert upper[name][last][0] < upper[name][last][2]
        assert lower[name][first][0] < lower[name][first][2]
        assert lower[name][last][0] > lower[name][last][2]


def test_an_upright_map_of_a_picture_that_lies_on_its_side(model, tmp_path):
    """The pixels of the file lie on their side; the EXIF data says so; the map is that of the upright picture."""
    upright = grey(90, 60, 0)
    upright[18:24, 57:63] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "side.png"
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    why = explain(model, path, target=2, outputs=OUTPUTS)
    assert why.original_size == (90, 60)
    assert centre(why.explanation["original"].array) == pytest.approx((60, 21), abs=1.5)
