"""How alike two maps are, by the ranks of their pixels or by their structure; knows no method."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 7
"""Side of the window of the structural similarity, in pixels, as in scikit-image."""


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return Spearman's correlation of two maps `[H, W]`; pixels that tie share their mean rank."""
    first, second = _ranks(one), _ranks(other)
    first, second = first - first.mean(), second - second.mean()
    alike = _same_if_flat(first, second)
    if alike is not None:
        return alike
    return (first * second).sum() / (first.square().sum() * second.square().sum()).sqrt()


def structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean structural similarity of two maps `[H, W]`, each normalised to 0..1 (Wang et al., 2004).

    Means, sample variances and covariances are over windows of 7 x 7 pixels that lie inside the map, or over the whole
    map where it is smaller.
    """
    alike = _same_if_flat(one - one.mean(), other - other.mean())
    if alike is not None:
        return alike
    x, y = ((map - map.min()) / (map.max() - map.min()) for map in (one, other))
    height, width = (min(WINDOW, length) for length in one.shape)
    mean_x, mean_y, xx, yy, xy = (_means(map, height, width) for map in (x, y, x * x, y * y, x * y))
    sample = height * width / max(height * width - 1, 1)
    variance_x, variance_y = sample * (xx - mean_x**2), sample * (yy - mean_y**2)
    covariance = sample * (xy - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (top / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean()


def _ranks(map: Tensor) -> Tensor:
    """Return the rank of each pixel among all, from 0, ties at their mean."""
    import torch

    values = map.flatten().contiguous()
    sorted_values = values.sort().values
    first = torch.searchsorted(sorted_values, values)
    last = torch.searchsorted(sorted_values, values, right=True)
    return (first + last - 1).double() / 2


def _same_if_flat(one: Tensor, other: Tensor) -> Tensor | None:
    """Return 1 for two maps that do not vary, 0 where one of them does, None where both do; means are 0."""
    flat = [not bool(map.any()) for map in (one, other)]
    return one.new_tensor(float(all(flat))) if any(flat) else None


def _means(map: Tensor, height: int, width: int) -> Tensor:
    import torch.nn.functional as F

    return F.avg_pool2d(map[None, None], (height, width), stride=1)[0, 0]
