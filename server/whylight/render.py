"""Draws maps as arrays, pictures and boxes, on the canvas that each output names; knows neither models nor methods."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from whylight import ops
from whylight.artifact import Artifact, Box, Boxes, Map, Picture
from whylight.boxes import find_boxes, find_mask
from whylight.decode import DecodedInput
from whylight.outputs import (
    BoxesOutput,
    Canvas,
    MapOutput,
    MaskOutput,
    Output,
    PictureFormat,
    PictureOutput,
    PictureStyle,
)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
_SAVE: dict[PictureFormat, dict[str, Any]] = {
    # Measured, overlay of 224 x 224: level 1 takes 3.4 ms for 82 KB, level 3 4.7 for 80 KB, level 6 14.7 for 73 KB.
    PictureFormat.PNG: {"compress_level": 1},
    PictureFormat.JPEG: {},
    PictureFormat.WEBP: {"method": 2},  # 1.9 ms for 8.3 KB; method 4, the default, takes 4.2 ms for 8.1 KB
}
_UNSEEN = 0.6
"""Brightness of what the model did not see, beside the overlay on an original picture."""


@dataclass(frozen=True)
class Drawn:
    """What was made of one map; `low` and `high` are of the native map, rectified, before normalisation."""

    low: float
    high: float
    artifacts: tuple[Artifact, ...]


def render(
    maps: Tensor,
    inputs: Sequence[DecodedInput],
    rows: Sequence[int],
    outputs: Sequence[Output],
    colours: Sequence[Tensor | None],
    scale: ops.Scale,
    executor: Executor | None = None,
) -> list[Drawn]:
    """Draw every output of every map.

    `maps` is `[M, h, w]`, map `m` of ``inputs[rows[m]]``; the inputs are all of one size. `colours` has a table
    `[256, 3]` for each output that is a picture. Arrays and overlays on the input are made for the whole batch at once;
    on originals, whose sizes differ, one by one. Pictures are encoded in the threads of `executor`, if there is one.
    """
    sheet = _Sheet(maps, inputs, rows, scale)
    columns = [sheet.draw(output, table, executor) for output, table in zip(outputs, colours, strict=True)]
    lows, highs = sheet.native.low.tolist(), sheet.native.high.tolist()
    return [
        Drawn(low, high, tuple(column[m] for column in columns))
        for m, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]


class _Sheet:
    """The maps of one batch, and what they lie on."""

    def __init__(self, maps: Tensor, inputs: Sequence[DecodedInput], rows: Sequence[int], scale: ops.Scale) -> None:
        self.maps = maps
        self.inputs = [inputs[row] for row in rows]
        self.scale = scale
        self.plain = replace(scale, normalise="none", signed=False)
        self.size = inputs[0].size
        self.native = ops.cam_render(maps, (maps.shape[1], maps.shape[2]), self.plain)

    def draw(self, output: Output, table: Tensor | None, executor: Executor | None) -> list[Artifact]:
        """Make the artifact of every map."""
        match output:
            case MapOutput():
                return [Map(output.name, array) for array in self._arrays(output)]
            case BoxesOutput():
                return [Boxes(output.name, boxes, output.canvas) for boxes in self._boxes(output)]
            case MaskOutput():
                return [Map(output.name, mask) for mask in self._masks(output)]
            case PictureOutput():
                assert table is not None
                table = table.to(self.maps.device)
                encode = partial(encoded, output)
                if output.canvas is Canvas.ORIGINAL:
                    return list(map(encode, self._on_originals(output, table)))  # one large canvas in memory at a time
                pictures = self._on_inputs(output, table)
                return list((executor.map if executor and len(pictures) > 1 else map)(encode, pictures))

    def _arrays(self, output: MapOutput) -> list[npt.NDArray[Any]]:
        dtype = _DTYPES[output.dtype]
        normalised = output.normalised or dtype is torch.uint8
        scale = self.scale if normalised else self.plain
        if output.canvas is Canvas.NATIVE:
            if not normalised and dtype is torch.float32:
                return _each(self.native.values)
            return _each(ops.cam_render(self.maps, (self.maps.shape[1], self.maps.shape[2]), scale, dtype=dtype).values)
        if output.canvas is Canvas.INPUT:
            return _each(ops.cam_render(self.maps, self.size, scale, dtype=dtype).values)
        nothing = 127 if dtype is torch.uint8 and self.scale.signed else 0  # the code of 0 in each type
        arrays = []
        for m, item in enumerate(self.inputs):
            width, height = item.original_size
            array = np.full((height, width), nothing, output.dtype)
            left, top, right, bottom = item.frame
            rendered = ops.cam_render(self.maps[m : m + 1], (bottom - top, right - left), scale, dtype=dtype).values
            _paste(array, _numpy(rendered)[0], item.frame)
            arrays.append(array)
        return arrays

    def _clipped(self, percentile: float) -> Tensor:
        """Return the maps without what lies above a percentile of each: the smallest value with that share below it.

        A map most of which is 0 stays as it is, if it would be 0 altogether.
        """
        if percentile == 100:
            return self.maps
        clipped = []
        for one in self.maps:
            seen = one.abs() if self.scale.signed else one.relu() if self.scale.rectify else one
            rank = min(max(math.ceil(percentile / 100 * seen.numel()), 1), seen.numel())
            bound = seen.flatten().kthvalue(rank).values
            bound = torch.where(bound > seen.min(), bound, seen.max())
            clipped.append(one.clamp(-bound if self.scale.signed else None, bound))
        return torch.stack(clipped)

    def _on_inputs(self, output: PictureOutput, table: Tensor) -> npt.NDArray[np.uint8]:
        overlaid = output.style is PictureStyle.OVERLAY
        images = self._seen() if overlaid else None
        opacity = output.opacity if overlaid else 1.0
        maps = self._clipped(output.clip_percentile)
        return _numpy(ops.cam_overlay(maps, self.size, self.scale, table, images=images, opacity=opacity).values)

    def _on_originals(self, output: PictureOutput, table: Tensor) -> Iterator[npt.NDArray[np.uint8]]:
        overlaid = output.style is PictureStyle.OVERLAY
        opacity = output.opacity if overlaid else 1.0
        maps = self._clipped(output.clip_percentile)
        for m, item in enumerate(self.inputs):
            left, top, right, bottom = item.frame
            if overlaid:
                original = item.drawn_on()
                canvas = _unseen(original)
                images = torch.from_numpy(_cut(original, item.frame)[None]).to(self.maps.device)
            else:
                width, height = item.original_size
                canvas = np.empty((height, width, 3), np.uint8)
                canvas[:] = table[127 if self.scale.signed else 0].cpu().numpy()
                images = None
            size, one = (bottom - top, right - left), maps[m : m + 1]
            rendered = ops.cam_overlay(one, size, self.scale, table, images=images, opacity=opacity)
            _paste(canvas, _numpy(rendered.values)[0], item.frame)
            yield canvas

    def _seen(self) -> Tensor:
        """Return what the model saw in each input `[M, H, W, 3]`."""
        pictures = []
        for item in self.inputs:
            assert item.seen is not None
            pictures.append(item.seen)
        return torch.from_numpy(np.stack(pictures)).to(self.maps.device)

    def _boxes(self, output: BoxesOutput) -> list[tuple[Box, ...]]:
        """Find boxes at the resolution of the model's input; of a signed map, around what speaks for the target."""
        rendered = _numpy(ops.cam_render(self.maps, self.size, self.scale).values)
        found = [find_boxes(values, output.threshold, output.limit) for values in rendered]
        if output.canvas is Canvas.INPUT:
            return found
        return [tuple(_on_original(box, item) for box in boxes) for boxes, item in zip(found, self.inputs, strict=True)]

    def _masks(self, output: MaskOutput) -> list[npt.NDArray[np.uint8]]:
        """Find masks where `_boxes` finds boxes; on an original each cell fills the pixels that the model saw there."""
        rendered = _numpy(ops.cam_render(self.maps, self.size, self.scale).values)
        found = [find_mask(values, output.threshold) for values in rendered]
        if output.canvas is Canvas.INPUT:
            return found
        masks = []
        for mask, item in zip(found, self.inputs, strict=True):
            width, height = item.original_size
            left, top, right, bottom = item.frame
            canvas = np.zeros((height, width), np.uint8)
            down = np.arange(bottom - top) * mask.shape[0] // (bottom - top)
            across = np.arange(right - left) * mask.shape[1] // (right - left)
            _paste(canvas, mask[down[:, None], across], item.frame)
            masks.append(canvas)
        return masks


def _on_original(box: Box, item: DecodedInput) -> Box:
    left, top, right, bottom = item.box
    across, down = (right - left) / item.size[1], (bottom - top) / item.size[0]
    width, height = item.original_size
    return Box(
        min(max(left + box.left * across, 0.0), width),
        min(max(top + box.top * down, 0.0), height),
        min(max(left + box.right * across, 0.0), width),
        min(max(top + box.bottom * down, 0.0), height),
        box.score,
    )


def _numpy(values: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = values.cpu().numpy()
    return array


def _each(values: Tensor) -> list[npt.NDArray[Any]]:
    """Return one array for each map, none of which keeps the memory of the whole batch."""
    return [array.copy() for array in _numpy(values)]


def _paste(canvas: npt.NDArray[Any], part: npt.NDArray[Any], frame: tuple[int, int, int, int]) -> None:
    """Write `part`, which fills `frame`, where the frame lies on the canvas."""
    left, top, _, _ = frame
    inside = canvas[max(top, 0) : top + part.shape[0], max(left, 0) : left + part.shape[1]]
    below, across = max(-top, 0), max(-left, 0)
    inside[...] = part[below : below + inside.shape[0], across : across + inside.shape[1]]


def _cut(picture: npt.NDArray[np.uint8], frame: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Cut `frame` out of a picture; what lies beyond the picture is black."""
    left, top, right, bottom = frame
    height, width = picture.shape[:2]
    part = np.zeros((bottom - top, right - left, 3), np.uint8)
    _paste(part, picture, (-left, -top, width - left, height - top))
    return part


def _unseen(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the picture in dim grey, so that what the model did not see tells itself from what left it cold."""
    grey = Image.fromarray(picture).convert("L").point([round(level * _UNSEEN) for level in range(256)])
    return np.array(grey.convert("RGB"))


def encoded(output: PictureOutput, pixels: npt.NDArray[np.uint8]) -> Picture:
    """Return pixels `[H, W, 3]` or `[H, W]` as a file of the format and quality that an output asks for."""
    buffer = io.BytesIO()
    lossy = {} if output.format is PictureFormat.PNG else {"quality": output.quality}
    Image.fromarray(pixels).save(buffer, output.format.name, **_SAVE[output.format], **lossy)
    height, width = pixels.shape[:2]
    return Picture(output.name, buffer.getvalue(), output.format.media_type, width, height)
