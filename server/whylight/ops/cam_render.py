"""Maps resized, normalised and quantised in one pass; knows neither methods nor file formats."""

from __future__ import annotations

import torch
from torch import Tensor

from whylight.ops.native import CPU_NATIVE, CUDA_NATIVE
from whylight.ops.scale import Rendered, Scale, check_maps, quantised, scaled

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.uint8: 2, torch.float64: 3}
_BY_CODE = {code: dtype for dtype, code in _DTYPES.items()}


def cam_render(
    maps: Tensor,
    size: tuple[int, int],
    scale: Scale,
    *,
    dtype: torch.dtype = torch.float32,
) -> Rendered:
    """Rectify, normalise and resize maps as `scale` says.

    `maps` is ``[M, h, w]``, `size` (H, W). Returns values ``[M, H, W]`` of `dtype`: float32, float16, float64, or
    uint8, which holds 255 times a value from 0 to 1, truncated as ``np.uint8(255 * x)``, where `scale.signed` brings
    values from -1..1 to 0..1 first. The arithmetic is float32, or float64 if the maps or `dtype` are. A map with a NaN
    is NaN where that reaches: all of it, once normalised; uint8 has 0 there.

    Raises ValueError for another dtype, RuntimeError for maps or a size that do not fit.
    """
    if _is_native(maps, dtype):
        return Rendered(*_operator(maps, *size, *scale.codes, _code(dtype)))
    return cam_render_reference(maps, size, scale, dtype=dtype)


def _is_native(maps: Tensor, dtype: torch.dtype) -> bool:
    """Say whether a kernel takes these; the CUDA kernels compute in float32 only."""
    if maps.is_cpu:
        return CPU_NATIVE
    return CUDA_NATIVE and maps.is_cuda and maps.dtype is not torch.float64 and dtype is not torch.float64


def _code(dtype: torch.dtype) -> int:
    code = _DTYPES.get(dtype)
    if code is None:
        raise ValueError(f"cam_render: dtype must be float32, float16, float64 or uint8, got {dtype}")
    return code


def cam_render_reference(
    maps: Tensor,
    size: tuple[int, int],
    scale: Scale,
    *,
    dtype: torch.dtype = torch.float32,
) -> Rendered:
    """Compute `cam_render` in plain torch."""
    _code(dtype)
    check_maps("cam_render", maps, size)
    compute = torch.float64 if torch.float64 in (maps.dtype, dtype) else torch.float32
    values, low, high = scaled(maps, size, scale, compute)
    values = quantised(values, scale) if dtype is torch.uint8 else values.to(dtype)
    kept = torch.float64 if maps.dtype is torch.float64 else torch.float32
    return Rendered(values, low.to(kept), high.to(kept))


if CPU_NATIVE:
    _operator = torch.ops.whylight.cam_render.default

    @torch.library.register_fake("whylight::cam_render")  # type: ignore[untyped-decorator]
    def _(
        maps: Tensor,
        height: int,
        width: int,
        rectify: bool,
        signed: bool,
        normalise: int,
        eps: float,
        interpolation: int,
        dtype: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        check_maps("cam_render", maps, (height, width))
        kept = torch.float64 if maps.dtype is torch.float64 else torch.float32
        values = maps.new_empty((maps.shape[0], height, width), dtype=_BY_CODE[dtype])
        return values, maps.new_empty(maps.shape[0], dtype=kept), maps.new_empty(maps.shape[0], dtype=kept)
