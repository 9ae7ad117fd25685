"""cam_render and cam_overlay: against F.interpolate, and against the same steps written out in numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from whylight import ops
from whylight.ops import Scale

pytestmark = pytest.mark.skipif(not ops.native_status().available, reason=ops.native_status().description)

SIZES = [
    ((7, 7), (224, 224)),
    ((14, 14), (197, 100)),
    ((13, 17), (384, 5)),
    ((1, 1), (8, 9)),
    ((5, 5), (5, 5)),
    ((30, 40), (7, 9)),
    ((3, 3), (1, 1)),
    ((7, 11), (225, 49)),
    ((224, 224), (224, 224)),
]
INTERPOLATIONS = ["bilinear", "bilinear-corners", "nearest"]
NORMALISE = ["none", "before", "after", "both"]


def resized(maps, size, interpolation):
    if interpolation == "nearest":
        return F.interpolate(maps[:, None], size, mode="nearest")[:, 0]
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=interpolation == "bilinear-corners")[:, 0]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("native", "size"), SIZES, ids=str)
def test_resizes_as_interpolate_does(native, size, interpolation, device):
    maps = torch.randn(3, *native, device=device)
    rendered = ops.cam_render(maps, size, Scale(normalise="none", interpolation=interpolation))
    expected = resized(maps, size, interpolation)
    torch.testing.assert_close(rendered.values, expected, rtol=0, atol=5e-5 if interpolation != "nearest" else 0)
    assert torch.equal(rendered.low, maps.amin((1, 2)))
    assert torch.equal(rendered.high, maps.amax((1, 2)))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize(("native", "size"), SIZES, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_equals_its_definition_in_double_precision(native, size, normalise, interpolation, eps):
    maps = torch.randn(3, *native, dtype=torch.float64)
    for rectify in (False, True):
        for signed in (False, True):
            scale = Scale(rectify, signed, normalise, eps, interpolation)
            rendered = ops.cam_render(maps, size, scale, dtype=torch.float64)
            expected = ops.cam_render_reference(maps, size, scale, dtype=torch.float64)
            torch.testing.assert_close(rendered.values, expected.values, rtol=0, atol=1e-12)
            assert torch.equal(rendered.low, expected.low)
            assert torch.equal(rendered.high, expected.high)


def numpy_steps(grid, scale):
    """A map, already resized, as the definition has it, one line a step."""
    if scale.signed:
        largest = np.abs(grid).max() + grid.dtype.type(scale.eps)
        return grid / largest if largest else np.zeros_like(grid)
    grid = grid - grid.min()
    largest = grid.max() + grid.dtype.type(scale.eps)
    return grid / largest if largest else np.zeros_like(grid)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_normalises_as_the_definition_in_numpy(signed, eps, device):
    scale = Scale(
        signed=signed, eps=eps, interpolation="nearest"
    )  # nearest: the same samples on both sides, to the bit
    maps = torch.randn(5, 9, 7, device=device)
    rendered = ops.cam_render(maps, (36, 28), scale).values.cpu().numpy()
    for n in range(5):
        grid = resized(maps[n : n + 1].cpu(), (36, 28), "nearest")[0].numpy()
        np.testing.assert_array_equal(rendered[n], numpy_steps(grid, scale))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("native", "size"), [pair for pair in SIZES if pair[1] != (1, 1)], ids=str)
def test_the_range_is_exactly_0_to_1(native, size, interpolation, device):
    maps = torch.randn(50, *native, device=device)
    values = ops.cam_render(maps, size, Scale(interpolation=interpolation)).values
    assert (values >= 0).all()
    assert (values <= 1).all()
    assert (values.amin((1, 2)) == 0).all()
    assert (values.amax((1, 2)) == (0 if native == (1, 1) else 1)).all()


@pytest.mark.parametrize("signed", [False, True])
def test_uint8_truncates_255_times_the_value(signed, device):
    scale = Scale(signed=signed)
    maps = torch.randn(4, 7, 7, device=device)
    values = ops.cam_render(maps, (224, 224), scale).values.cpu().numpy()
    unit = (values + 1) * np.float32(0.5) if signed else values
    rendered = ops.cam_render(maps, (224, 224), scale, dtype=torch.uint8).values.cpu().numpy()
    np.testing.assert_array_equal(rendered, np.uint8(255 * unit))
    assert rendered.max() == 255 or signed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.uint8], ids=str)
def test_gives_the_dtype_that_is_asked_for(dtype):
    maps = torch.randn(2, 7, 7)
    rendered = ops.cam_render(maps, (30, 20), Scale(), dtype=dtype)
    reference = ops.cam_render_reference(maps, (30, 20), Scale(), dtype=dtype)
    assert rendered.values.dtype == reference.values.dtype == dtype
    assert rendered.low.dtype == reference.low.dtype == torch.float32
    difference = (rendered.values.double() - reference.values.double()).abs().max()
    assert difference <= {torch.uint8: 1, torch.float16: 1e-3}.get(dtype, 1e-5)


def test_values_out_of_range_are_held_for_uint8(device):
    maps = torch.tensor([[[-3.0, 0.5], [float("nan"), 7.0]]], device=device)
    scale = Scale(normalise="none", interpolation="nearest")
    assert ops.cam_render(maps, (2, 2), scale, dtype=torch.uint8).values.tolist() == [[[0, 127], [0, 255]]]


def test_a_constant_map_becomes_zero(device):
    maps = torch.full((1, 7, 7), 1.7, device=device)
    for normalise in ("before", "after", "both"):
        assert ops.cam_render(maps, (50, 60), Scale(normalise=normalise)).values.eq(0).all()
        assert ops.cam_render(maps * 0, (50, 60), Scale(signed=True, normalise=normalise)).values.eq(0).all()
        # A negative map that is rectified is constant too.
        assert ops.cam_render(-maps, (9, 9), Scale(rectify=True, normalise=normalise)).values.eq(0).all()


@pytest.mark.parametrize("signed", [False, True])
def test_nan_spreads_over_its_map_and_no_other(signed, device):
    maps = torch.randn(3, 7, 7, device=device)
    maps[1, 6, 6] = float("nan")
    rendered = ops.cam_render(maps, (224, 224), Scale(rectify=True, signed=signed))
    assert rendered.values[1].isnan().all()
    assert rendered.low[1].isnan()
    assert rendered.high[1].isnan()
    assert rendered.values[[0, 2]].isfinite().all()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_map_has_the_same_bits_alone_in_a_batch_and_with_any_threads(interpolation, threads):
    maps = torch.randn(9, 14, 14)
    scale = Scale(normalise="both", eps=1e-7, interpolation=interpolation)
    threads(1)
    together = ops.cam_render(maps, (224, 224), scale)
    threads(3)
    again = ops.cam_render(maps, (224, 224), scale)
    assert torch.equal(together.values, again.values)
    for n in range(9):
        assert torch.equal(ops.cam_render(maps[n : n + 1], (224, 224), scale).values[0], together.values[n])


def test_takes_maps_of_any_layout_and_floating_dtype(device):
    maps = torch.randn(2, 5, 6, device=device)
    expected = ops.cam_render(maps, (20, 24), Scale()).values
    assert torch.equal(ops.cam_render(maps.mT.contiguous().mT, (20, 24), Scale()).values, expected)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = ops.cam_render(maps.to(dtype), (20, 24), Scale()).values
        assert torch.equal(narrow, ops.cam_render(maps.to(dtype).float(), (20, 24), Scale()).values)


def test_no_maps_give_no_pictures(device):
    maps = torch.empty(0, 7, 7, device=device)
    assert ops.cam_render(maps, (3, 4), Scale()).values.shape == (0, 3, 4)
    colours = ops.colour_table("turbo").to(device)
    assert ops.cam_overlay(maps, (3, 4), Scale(), colours).values.shape == (0, 3, 4, 3)


@pytest.mark.parametrize("opacity", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("signed", [False, True])
def test_overlay_is_the_weighted_mean_rounded_to_the_nearest(signed, opacity, device):
    maps = torch.randn(3, 7, 7, device=device)
    images = torch.randint(0, 256, (3, 60, 50, 3), dtype=torch.uint8, device=device)
    colours = ops.colour_table("jet").to(device)
    scale = Scale(signed=signed)
    index = ops.cam_render(maps, (60, 50), scale, dtype=torch.uint8).values.long()
    painted = ops.cam_overlay(maps, (60, 50), scale, colours, images=images, opacity=opacity)
    exact = opacity * colours[index].double() + (1 - opacity) * images.double()
    # Half a step, and what an opacity in steps of 1/65536 may move it.
    assert (painted.values.double() - exact).abs().max() <= 0.5 + 255 / 131072
    assert torch.equal(ops.cam_overlay(maps, (60, 50), scale, colours).values, colours[index])
    assert torch.equal(painted.low, maps.amin((1, 2)))


def test_overlay_halves_round_up():
    colours = torch.full((256, 3), 10, dtype=torch.uint8)
    images = torch.tensor([11, 12, 13], dtype=torch.uint8).expand(1, 2, 2, 3)
    for implementation in (ops.cam_overlay, ops.cam_overlay_reference):
        painted = implementation(torch.zeros(1, 2, 2), (2, 2), Scale(), colours, images=images, opacity=0.5)
        assert painted.values[0, 0, 0].tolist() == [11, 11, 12]


def test_overlay_takes_images_of_any_strides(device):
    maps = torch.randn(4, 7, 7, device=device)
    colours = ops.colour_table("viridis").to(device)
    planar = torch.randint(0, 256, (4, 3, 30, 20), dtype=torch.uint8, device=device)
    images = planar.permute(0, 2, 3, 1)
    expected = ops.cam_overlay(maps, (30, 20), Scale(), colours, images=images.contiguous(), opacity=0.4)
    result = ops.cam_overlay(maps, (30, 20), Scale(), colours, images=images, opacity=0.4)
    assert torch.equal(result.values, expected.values)
    one = images[:1].expand(4, -1, -1, -1)
    expected = ops.cam_overlay(maps, (30, 20), Scale(), colours, images=one.contiguous(), opacity=0.4)
    assert torch.equal(
        ops.cam_overlay(maps, (30, 20), Scale(), colours, images=one, opacity=0.4).values, expected.values
    )


def test_overlay_equals_its_twin_up_to_a_neighbouring_colour():
    maps = torch.randn(3, 7, 7)
    ramp = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3)  # neighbouring indices, neighbouring bytes
    images = torch.randint(0, 256, (3, 60, 50, 3), dtype=torch.uint8)
    native = ops.cam_overlay(maps, (60, 50), Scale(), ramp, images=images, opacity=0.5)
    twin = ops.cam_overlay_reference(maps, (60, 50), Scale(), ramp, images=images, opacity=0.5)
    difference = (native.values.int() - twin.values.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


COLOURS = torch.zeros(256, 3, dtype=torch.uint8)
BAD = [
    ({"maps": torch.zeros(7, 7)}, "maps must be .M, h, w., got 2-D"),
    ({"maps": torch.zeros(1, 0, 7)}, "maps must not be empty"),
    ({"maps": torch.zeros(1, 7, 7, dtype=torch.int64)}, "maps must be float16"),
    ({"size": (0, 5)}, "size must be positive"),
    ({"colours": torch.zeros(256, 4, dtype=torch.uint8)}, "colours must be .256, 3. uint8"),
    ({"colours": torch.zeros(256, 3)}, "colours must be .256, 3. uint8"),
    ({"opacity": 1.5}, "opacity must be from 0 to 1"),
    ({"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, "images must be .1, 4, 5, 3. uint8"),
    ({"images": torch.zeros(1, 4, 5, 3)}, "images must be .1, 4, 5, 3. uint8"),
]


@pytest.mark.parametrize("implementation", [ops.cam_overlay, ops.cam_overlay_reference])
@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message for _, message in BAD])
def test_says_what_is_wrong(wrong, message, implementation):
    good = {"maps": torch.zeros(1, 7, 7), "size": (4, 5), "colours": COLOURS, "images": None, "opacity": 1.0}
    arguments = {**good, **wrong}
    with pytest.raises(RuntimeError, match=message):
        implementation(
            arguments["maps"],
            arguments["size"],
            Scale(),
            arguments["colours"],
            images=arguments["images"],
            opacity=arguments["opacity"],
        )


def test_refuses_a_side_that_is_too_long():
    with pytest.raises(RuntimeError, match="no side may exceed 32767"):
        ops.cam_render(torch.zeros(1, 2, 2), (32768, 1), Scale())
    assert ops.cam_render(torch.rand(1, 2, 2), (32767, 1), Scale()).values.shape == (1, 32767, 1)


@pytest.mark.parametrize("implementation", [ops.cam_render, ops.cam_render_reference])
def test_refuses_a_dtype_that_it_has_not(implementation):
    with pytest.raises(ValueError, match="dtype must be float32, float16, float64 or uint8"):
        implementation(torch.zeros(1, 2, 2), (4, 4), Scale(), dtype=torch.int16)


def test_scale_names_what_there_is():
    with pytest.raises(ValueError, match="unknown normalise 'min-max'; known: none, before, after, both"):
        Scale(normalise="min-max")
    with pytest.raises(ValueError, match="unknown interpolation 'bicubic'"):
        Scale(interpolation="bicubic")
