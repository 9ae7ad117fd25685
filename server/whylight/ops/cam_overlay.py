"""Maps resized, normalised, coloured and laid over pictures in one pass; knows neither methods nor file formats."""

from __future__ import annotations

import torch
from torch import Tensor

from whylight.ops.native import CPU_NATIVE, CUDA_NATIVE
from whylight.ops.scale import Rendered, Scale, check_maps, quantised, scaled


def cam_overlay(
    maps: Tensor,
    size: tuple[int, int],
    scale: Scale,
    colours: Tensor,
    *,
    images: Tensor | None = None,
    opacity: float = 1.0,
) -> Rendered:
    """Rectify, normalise, resize and colour maps, and lay them over images.

    `maps` is ``[M, h, w]``, `size` (H, W), `colours` a table ``[256, 3]`` uint8, `images` ``[M, H, W, 3]`` uint8 of any
    strides (an expanded image serves many maps). The colour of a value is that of its uint8 quantisation, as
    `cam_render` gives it. Returns values ``[M, H, W, 3]`` uint8: ``opacity * colour + (1 - opacity) * image``, rounded
    to the nearest, halves up, with the opacity in steps of 1/65536 so that every device gives the same bytes; without
    `images`, the colours alone.

    Raises RuntimeError for maps, size, colours, images or an opacity that do not fit.
    """
    if CPU_NATIVE if maps.is_cpu else CUDA_NATIVE and maps.is_cuda and maps.dtype is not torch.float64:
        return Rendered(*_operator(maps, *size, *scale.codes, colours, images, opacity))
    return cam_overlay_reference(maps, size, scale, colours, images=images, opacity=opacity)


def cam_overlay_reference(
    maps: Tensor,
    size: tuple[int, int],
    scale: Scale,
    colours: Tensor,
    *,
    images: Tensor | None = None,
    opacity: float = 1.0,
) -> Rendered:
    """Compute `cam_overlay` in plain torch."""
    _check(maps, size, colours, images, opacity)
    values, low, high = scaled(maps, size, scale, torch.float64 if maps.dtype is torch.float64 else torch.float32)
    painted = colours[quantised(values, scale).long()]
    if images is not None:
        weight = int(opacity * 65536 + 0.5)
        painted = ((weight * painted.int() + (65536 - weight) * images.int() + 32768) >> 16).to(torch.uint8)
    return Rendered(painted, low, high)


def _check(maps: Tensor, size: tuple[int, int], colours: Tensor, images: Tensor | None, opacity: float) -> None:
    """Raise for what the kernels refuse, in their words."""
    check_maps("cam_overlay", maps, size)
    torch._check(
        tuple(colours.shape) == (256, 3) and colours.dtype is torch.uint8,
        lambda: f"cam_overlay: colours must be [256, 3] uint8, got {list(colours.shape)} {colours.dtype}",
    )
    torch._check(
        colours.device == maps.device,
        lambda: f"cam_overlay: maps are on {maps.device}, colours on {colours.device}",
    )
    torch._check(0 <= opacity <= 1, lambda: f"cam_overlay: opacity must be from 0 to 1, got {opacity}")
    if images is None:
        return
    expected = (maps.shape[0], *size, 3)
    torch._check(
        tuple(images.shape) == expected and images.dtype is torch.uint8,
        lambda: f"cam_overlay: images must be {list(expected)} uint8, got {list(images.shape)} {images.dtype}",
    )
    torch._check(
        images.device == maps.device, lambda: f"cam_overlay: maps are on {maps.device}, images on {images.device}"
    )


if CPU_NATIVE:
    _operator = torch.ops.whylight.cam_overlay.default

    @torch.library.register_fake("whylight::cam_overlay")  # type: ignore[untyped-decorator]
    def _(
        maps: Tensor,
        height: int,
        width: int,
        rectify: bool,
        signed: bool,
        normalise: int,
        eps: float,
        interpolation: int,
        colours: Tensor,
        images: Tensor | None,
        opacity: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        _check(maps, (height, width), colours, images, opacity)
        kept = torch.float64 if maps.dtype is torch.float64 else torch.float32
        values = maps.new_empty((maps.shape[0], height, width, 3), dtype=torch.uint8)
        return values, maps.new_empty(maps.shape[0], dtype=kept), maps.new_empty(maps.shape[0], dtype=kept)
