"""Where on which canvas a map's parts land, in which type and colour."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from whylight import ops
from whylight.decode import DecodedInput
from whylight.outputs import BoxesOutput, Canvas, MapOutput, PictureFormat, PictureOutput, PictureStyle
from whylight.render import render

SCALE = ops.Scale(rectify=True)
SIGNED = ops.Scale(signed=True)
TURBO = ops.colour_table("turbo")
BWR = ops.colour_table("bwr")

# A picture 60 wide and 40 high, of which the model sees the middle 40 x 40 at 20 x 20.
WIDE = DecodedInput(
    values=np.full((20, 20, 3), 100, np.uint8),
    seen=np.full((20, 20, 3), 100, np.uint8),
    original=np.full((40, 60, 3), (200, 100, 50), np.uint8),
    box=(10.0, 0.0, 50.0, 40.0),
    original_size=(60, 40),
)
# A picture 10 wide and 20 high that was padded to 20 x 20.
PADDED = DecodedInput(
    values=np.full((20, 20, 3), 50, np.uint8),
    seen=np.full((20, 20, 3), 50, np.uint8),
    original=np.full((20, 10, 3), 250, np.uint8),
    box=(-5.0, 0.0, 15.0, 20.0),
    original_size=(10, 20),
)


def corner(row: int, column: int, value: float = 2.0, rest: float = 0.0) -> torch.Tensor:
    maps = torch.full((1, 4, 4), rest)
    maps[0, row, column] = value
    return maps


def one(maps, output, scale=SCALE, item=WIDE, table=None):
    (drawn,) = render(maps, [item], [0], [output], [table], scale)
    return drawn.artifacts[0]


def test_a_raw_native_map_is_that_of_the_method_rectified_and_needs_no_picture():
    bare = DecodedInput(WIDE.values, None, None, WIDE.box, WIDE.original_size)
    maps = torch.linspace(-3, 5, 16).reshape(1, 4, 4)
    (drawn,) = render(maps, [bare], [0], [MapOutput()], [None], SCALE)
    assert np.array_equal(drawn.artifacts[0].array, maps[0].clamp_min(0).numpy())
    assert (drawn.low, drawn.high) == (0.0, 5.0)
    (drawn,) = render(maps, [bare], [0], [MapOutput()], [None], ops.Scale())
    assert np.array_equal(drawn.artifacts[0].array, maps[0].numpy())
    assert (drawn.low, drawn.high) == (-3.0, 5.0)


@pytest.mark.parametrize(("dtype", "top"), [("float32", 1.0), ("float16", 1.0), ("uint8", 255)])
@pytest.mark.parametrize("canvas", list(Canvas))
def test_normalised_maps_reach_from_0_to_the_top_of_their_type(dtype, top, canvas):
    array = one(corner(1, 2), MapOutput(canvas=canvas, dtype=dtype, normalised=True)).array
    assert array.dtype == dtype
    assert array.shape == {Canvas.NATIVE: (4, 4), Canvas.INPUT: (20, 20), Canvas.ORIGINAL: (40, 60)}[canvas]
    assert (array.min(), array.max()) == (0, top)


def test_uint8_maps_are_normalised_unasked():
    asked = one(corner(1, 2), MapOutput(canvas=Canvas.INPUT, dtype="uint8", normalised=True)).array
    unasked = one(corner(1, 2), MapOutput(canvas=Canvas.INPUT, dtype="uint8")).array
    assert np.array_equal(asked, unasked)


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("column", [0, 3])
def test_a_corner_of_the_map_is_that_corner_on_every_canvas(row, column):
    maps = corner(row, column)
    native = one(maps, MapOutput()).array
    seen = one(maps, MapOutput(canvas=Canvas.INPUT)).array
    whole = one(maps, MapOutput(canvas=Canvas.ORIGINAL)).array
    assert native[row, column] == 2
    vertical, horizontal = (slice(0, 3) if row == 0 else slice(17, 20)), (slice(0, 3) if column == 0 else slice(17, 20))
    assert (seen[vertical, horizontal] == 2).sum() >= 4
    assert seen[vertical, horizontal].sum() > 0.3 * seen.sum()
    # Rendered straight from 4 x 4 to the 40 x 40 of the view, at the view's place; nothing beside it.
    direct = ops.cam_render(maps, (40, 40), ops.Scale(rectify=True, normalise="none")).values[0].numpy()
    assert np.array_equal(whole[:, 10:50], direct)
    assert not whole[:, :10].any()
    assert not whole[:, 50:].any()


def test_what_was_padded_is_cut_off_again():
    maps = torch.zeros(1, 4, 4)
    maps[0, :, 1] = 1.0  # input columns 5..9, original columns 0..4
    whole = one(maps, MapOutput(canvas=Canvas.ORIGINAL), item=PADDED).array
    seen = one(maps, MapOutput(canvas=Canvas.INPUT), item=PADDED).array
    assert whole.shape == (20, 10)
    assert np.array_equal(whole, seen[:, 5:15])


def test_signed_maps_keep_their_sign_and_their_zero():
    maps = torch.tensor([[[-4.0, 0.0], [0.0, 2.0]]])
    values = one(maps, MapOutput(normalised=True), SIGNED).array
    assert np.array_equal(values, [[-1.0, 0.0], [0.0, 0.5]])
    assert one(maps, MapOutput(canvas=Canvas.NATIVE), SIGNED).array[0, 0] == -4
    coded = one(maps, MapOutput(canvas=Canvas.ORIGINAL, dtype="uint8"), SIGNED).array
    assert set(np.unique(coded[:, :10])) == {127}
    picture = one(maps, PictureOutput(style=PictureStyle.MAP, canvas=Canvas.ORIGINAL), SIGNED, table=BWR)
    pixels = np.asarray(picture.image())
    assert min(pixels[0, 0]) >= 254
    assert pixels[0, 10].tolist() == BWR[0].tolist()


@pytest.mark.parametrize("format", list(PictureFormat))
@pytest.mark.parametrize(("canvas", "size"), [(Canvas.INPUT, (20, 20)), (Canvas.ORIGINAL, (60, 40))])
@pytest.mark.parametrize("style", list(PictureStyle))
def test_pictures_are_files_of_their_format_and_size(format, canvas, size, style):
    picture = one(corner(0, 0), PictureOutput(format=format, canvas=canvas, style=style), table=TURBO)
    image = picture.image()
    assert (picture.media_type, image.format) == (f"image/{format.value}", format.name)
    assert image.size == size == (picture.width, picture.height)


def test_a_map_picture_has_the_colours_of_its_values():
    picture = one(corner(0, 0), PictureOutput(style=PictureStyle.MAP, canvas=Canvas.INPUT), table=TURBO)
    values = one(corner(0, 0), MapOutput(canvas=Canvas.INPUT, dtype="uint8")).array
    assert np.array_equal(np.asarray(picture.image()), TURBO.numpy()[values])


def test_an_overlay_weighs_colour_and_picture_by_its_opacity():
    clear = one(corner(0, 0), PictureOutput(opacity=0.0), table=TURBO)
    half = one(corner(0, 0), PictureOutput(opacity=0.5), table=TURBO)
    assert set(np.unique(np.asarray(clear.image()))) == {100}
    colours = np.asarray(one(corner(0, 0), PictureOutput(opacity=1.0), table=TURBO).image()).astype(int)
    assert np.abs(np.asarray(half.image()).astype(int) * 2 - colours - 100).max() <= 1


def picture(maps, percentile, scale=SCALE, canvas=Canvas.INPUT):
    table = BWR if scale.signed else TURBO
    output = PictureOutput(style=PictureStyle.MAP, canvas=canvas, clip_percentile=percentile)
    return np.asarray(Image.open(io.BytesIO(one(maps, output, scale, table=table).data)).convert("RGB"))


@pytest.mark.parametrize("canvas", [Canvas.INPUT, Canvas.ORIGINAL])
def test_what_lies_above_the_percentile_is_drawn_as_if_it_lay_there(canvas):
    """Of 400 values 0, 1, ... 399 the 75th percentile is 299, the smallest with three quarters at or below it."""
    maps = torch.arange(400.0).view(1, 20, 20)
    assert np.array_equal(picture(maps, 75, canvas=canvas), picture(maps.clamp(max=299), 100, canvas=canvas))
    spiked = maps.clone()
    spiked[0, 19, 19] = 1e6
    assert len(np.unique(picture(spiked, 100)[:18].reshape(-1, 3), axis=0)) == 1  # one value takes all the light
    assert np.array_equal(picture(spiked, 99), picture(maps, 99))


def test_a_signed_map_is_clipped_by_magnitude_on_both_sides():
    maps = torch.linspace(-1, 1, 400, dtype=torch.float64).view(1, 20, 20)
    bound = maps.abs().flatten().sort().values[199]
    clipped = picture(maps, 50, SIGNED)
    assert np.array_equal(clipped, picture(maps.clamp(-bound, bound), 100, SIGNED))
    assert not np.array_equal(clipped, picture(maps, 100, SIGNED))


def test_a_map_that_is_nearly_all_zero_is_not_clipped_away():
    maps = corner(1, 2)
    assert np.array_equal(picture(maps, 50), picture(maps, 100))


def test_numbers_are_not_clipped():
    maps = torch.arange(16.0).view(1, 4, 4)
    outputs = [PictureOutput(clip_percentile=50), MapOutput()]
    (drawn,) = render(maps, [WIDE], [0], outputs, [TURBO, None], SCALE)
    assert np.array_equal(drawn.artifacts[1].array, maps[0].numpy())
    assert drawn.high == 15


def test_beside_the_view_an_original_is_dim_and_grey():
    pixels = np.asarray(one(corner(0, 0), PictureOutput(canvas=Canvas.ORIGINAL, opacity=0.0), table=TURBO).image())
    assert np.array_equal(pixels[:, 10:50], np.full((40, 40, 3), (200, 100, 50)))
    for beside in (pixels[:, :10], pixels[:, 50:]):
        assert len(np.unique(beside)) == 1
        assert 0 < beside.max() < 120


def test_an_overlay_on_a_padded_original_keeps_its_place():
    maps = torch.zeros(1, 4, 4)
    maps[0, :, 1] = 1.0
    output = PictureOutput(canvas=Canvas.ORIGINAL, style=PictureStyle.OVERLAY, opacity=0.0)
    pixels = np.asarray(one(maps, output, item=PADDED, table=TURBO).image())
    assert np.array_equal(pixels, PADDED.original)


def test_boxes_count_in_the_pixels_of_their_canvas():
    maps = corner(3, 0)
    (box,) = one(maps, BoxesOutput(threshold=0.5, canvas=Canvas.INPUT)).boxes
    assert (box.left, box.bottom, box.score) == (0, 20, 1.0)
    assert 4 <= box.right <= 6
    assert 14 <= box.top <= 16
    (on_original,) = one(maps, BoxesOutput(threshold=0.5, canvas=Canvas.ORIGINAL)).boxes
    assert (on_original.left, on_original.bottom) == (10, 40)
    assert (on_original.right, on_original.top) == (10 + 2 * box.right, 2 * box.top)


def test_boxes_never_leave_the_original():
    maps = torch.ones(1, 4, 4)
    maps[0, 3] = 0.0
    (box,) = one(maps, BoxesOutput(), item=PADDED).boxes
    assert (box.left, box.right, box.top) == (0, 10, 0)


def test_a_flat_map_is_drawn_without_boxes_or_division_by_zero():
    for level in (-3.0, 0.0, 3.0):
        maps = torch.full((1, 4, 4), level)
        assert one(maps, BoxesOutput()).boxes == ()
        assert not one(maps, MapOutput(normalised=True, canvas=Canvas.INPUT)).array.any()


@pytest.mark.parametrize("threads", [0, 3])
def test_maps_of_a_batch_are_drawn_as_if_alone(threads):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 4, 4, generator=generator)
    rows = [0, 0, 1, 2, 2]
    other = DecodedInput(
        WIDE.values, 255 - WIDE.seen, np.full((30, 30, 3), 9, np.uint8), (0.0, 0.0, 30.0, 30.0), (30, 30)
    )
    items = [WIDE, other, PADDED]
    outputs = [
        MapOutput("raw"),
        MapOutput("whole", Canvas.ORIGINAL, "float16"),
        PictureOutput("overlay"),
        PictureOutput("original", canvas=Canvas.ORIGINAL),
        PictureOutput("map", PictureFormat.JPEG, PictureStyle.MAP),
        BoxesOutput("boxes", limit=3),
    ]
    colours = [None, None, TURBO, TURBO, TURBO, None]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        together = render(maps, items, rows, outputs, colours, SCALE, pool if threads else None)
    for m, row in enumerate(rows):
        (alone,) = render(maps[m : m + 1], [items[row]], [0], outputs, colours, SCALE)
        assert (together[m].low, together[m].high) == (alone.low, alone.high)
        for a, b in zip(together[m].artifacts, alone.artifacts, strict=True):
            assert a.name == b.name
            if hasattr(a, "array"):
                assert np.array_equal(a.array, b.array)
            else:
                assert a == b


def test_profiles_differ_as_their_libraries_do():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 5.0]]])
    before = one(maps, MapOutput(canvas=Canvas.INPUT, normalised=True), ops.Scale(normalise="before")).array
    after = one(maps, MapOutput(canvas=Canvas.INPUT, normalised=True), ops.Scale(normalise="after")).array
    nearest = one(maps, MapOutput(canvas=Canvas.INPUT, normalised=True), ops.Scale(interpolation="nearest")).array
    assert len(np.unique(nearest)) == 4
    assert after.max() == 1.0
    assert before.shape == after.shape
