"""Finds boxes around the largest connected parts of a map; knows neither torch nor where the map came from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from whylight.artifact import Box


def find_boxes(values: npt.NDArray[np.float32], threshold: float, limit: int) -> tuple[Box, ...]:
    """Box the parts of a map `[H, W]` that lie above `threshold` times its maximum, the largest part first.

    Parts are 8-connected and ordered by their area, equal ones from top to bottom. A map that is nowhere above 0 has
    none. Edges are in cells of the map, right and lower exclusive; scores are the maximum of the map inside the box.
    Zhou et al., CVPR 2016, section 3.2 and Selvaraju et al., ICCV 2017, section 4.1 use the first box only.
    """
    peak = float(values.max(initial=0.0))
    if peak <= 0:
        return ()
    extents, areas = connected_parts(values > threshold * peak)
    largest = np.argsort(-areas, kind="stable")[:limit]
    return tuple(
        Box(float(left), float(top), float(right), float(bottom), float(values[top:bottom, left:right].max()))
        for left, top, right, bottom in extents[largest].tolist()
    )


def find_mask(values: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.uint8]:
    """Return the part of a map `[H, W]` that `find_boxes` draws its first box around, as ones among zeros."""
    mask = np.zeros(values.shape, np.uint8)
    peak = float(values.max(initial=0.0))
    if peak <= 0:
        return mask
    above = values > threshold * peak
    _, areas, labels = _labelled(above)
    mask[above] = labels == np.argsort(-areas, kind="stable")[0]
    return mask


def connected_parts(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the extents `[P, 4]` (left, top, right, bottom) and the areas `[P]` of the 8-connected parts of `mask`.

    Parts are in the order of their first cell.
    """
    extents, areas, _ = _labelled(mask)
    return extents, areas


def _labelled(
    mask: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return what `connected_parts` does, and the part of each set cell, row by row.

    Works on runs of set cells within rows, all at once: runs that touch are joined by hooking the root of the later one
    to that of the earlier one and then halving the paths, until every run agrees with its neighbours.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    edges = np.flatnonzero(np.diff(padded, axis=1))
    rows, starts = np.divmod(edges[0::2], width + 1)
    ends = edges[1::2] % (width + 1)

    # A run touches those of the next row that end at or after its start and start at or before its end.
    stride = width + 2
    below = (rows + 1) * stride
    first = np.searchsorted(rows * stride + ends, below + starts, side="left")
    last = np.searchsorted(rows * stride + starts, below + ends, side="right")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    lower = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)

    roots = np.arange(len(rows))
    while (roots[upper] != roots[lower]).any():
        pair = np.sort(np.stack((roots[upper], roots[lower])), axis=0)
        np.minimum.at(roots, pair[1], pair[0])
        while (roots != roots[roots]).any():
            roots = roots[roots]

    _, part = np.unique(roots, return_inverse=True)
    total = int(part.max(initial=-1)) + 1
    extents = np.tile(np.array([width, height, 0, 0]), (total, 1))
    np.minimum.at(extents[:, 0], part, starts)
    np.minimum.at(extents[:, 1], part, rows)
    np.maximum.at(extents[:, 2], part, ends)
    np.maximum.at(extents[:, 3], part, rows + 1)
    areas = np.bincount(part, weights=ends - starts, minlength=total).astype(np.int64)
    return extents, areas, np.repeat(part, ends - starts)
