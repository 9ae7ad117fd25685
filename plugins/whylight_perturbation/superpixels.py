"""Superpixels: the parts of an input that are hidden as one; knows pictures and their parts, but no method."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import whylight
from whylight_perturbation.fill import FILL_DESCRIPTION, Fill

if TYPE_CHECKING:
    from torch import Tensor


class SuperpixelOptions(whylight.Options):
    """How the input is divided, how often it is run, and what hidden parts show."""

    samples: int = Field(1000, ge=4, le=10000, description="How many times the model is run on each input.")
    segmentation: Literal["slic", "quickshift", "felzenszwalb", "grid"] = Field(
        "slic",
        description="How the input is divided into superpixels: 'slic', 'quickshift' and 'felzenszwalb' are those of "
        "scikit-image and follow the picture; 'grid' makes rectangles.",
    )
    segments: int = Field(
        50,
        ge=1,
        le=500,
        description="About how many superpixels there are; with 'felzenszwalb' at most twice as many, with "
        "'quickshift' as many as it finds.",
    )
    compactness: float = Field(
        10.0, gt=0, le=1000, description="How much 'slic' minds distance more than colour: high makes squares."
    )
    fill: Fill = Field("mean", description=FILL_DESCRIPTION)


@dataclass(frozen=True)
class Superpixels:
    """The superpixels of one input: which one each pixel is of, `[H, W]` from 0 on without gaps, and how many."""

    labels: Tensor
    count: int

    def spread(self, values: Tensor) -> Tensor:
        """Return maps `[T, H, W]` from one value for each superpixel `[T, count]`."""
        return values[:, self.labels]


def segmented(subject: whylight.Subject, input: Tensor, options: SuperpixelOptions) -> Superpixels:
    """Divide an input `[1, C, H, W]`, on the host.

    The picture that is divided is the one that the model saw: the normalisation of the model's transform undone, cut to
    0..1 and rounded to 8 bits, so that the same picture is divided in the same way on every device.

    Raises:
        Unsupported: the segmentation is scikit-image's, and this is not installed.
    """
    import torch

    if options.segmentation == "grid":
        labels = _grid((input.shape[2], input.shape[3]), options.segments)
        return Superpixels(labels.to(input.device), int(labels.max()) + 1)
    if importlib.util.find_spec("skimage") is None:
        raise whylight.Unsupported(
            f"segmentation {options.segmentation!r} needs scikit-image, which this server has not: "
            "pip install 'whylight[perturbation]', or use segmentation 'grid'",
            field="options.segmentation",
        )
    found = torch.from_numpy(_divided(_picture(input, subject.model.transform), options))
    _, labels = torch.unique(found, return_inverse=True)
    return Superpixels(labels.to(input.device), int(labels.max()) + 1)


def scores_of(
    subject: whylight.Subject, one: whylight.Batch, parts: Superpixels, shown: Tensor, fill: Fill
) -> Iterator[tuple[range, Tensor]]:
    """Yield blocks of samples with their targets' values `[K, T]`, for a batch of one input.

    `shown` `[samples, count]` says which superpixels each sample leaves as they are.
    """
    import torch

    input = one.inputs
    hidden = whylight.baseline(fill, input, subject.model.transform)

    def partly(block: range) -> Tensor:
        visible = shown[block.start : block.stop][:, parts.labels]
        return torch.where(visible[:, None, None], input, hidden)

    return subject.altered_score_blocks(one, len(shown), partly)


def _picture(input: Tensor, transform: whylight.Transform) -> Any:
    """Return `[H, W, C]` with values in 0..1 of 8 bits, red first."""
    import torch

    mean, std = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (transform.mean, transform.std))
    pixels = (input[0].detach().cpu().double() * std + mean) * (transform.scale / 255)
    pixels = pixels.flip(0) if transform.channel_order == "bgr" else pixels
    return (pixels.clamp(0, 1).mul(255).round() / 255).permute(1, 2, 0).contiguous().numpy()


def _divided(picture: Any, options: SuperpixelOptions) -> Any:
    import skimage.segmentation

    segmentation: Any = skimage.segmentation  # some of its functions have types, some have not

    colour = picture.shape[2] == 3
    if options.segmentation == "slic":
        return segmentation.slic(
            picture,
            n_segments=options.segments,
            compactness=options.compactness,
            start_label=0,
            convert2lab=colour,
            channel_axis=-1,
        )
    if options.segmentation == "felzenszwalb":
        smallest = max(1, picture.shape[0] * picture.shape[1] // (2 * options.segments))
        return segmentation.felzenszwalb(picture, scale=100, sigma=0.5, min_size=smallest, channel_axis=-1)
    # LIME's own settings for pictures.
    return segmentation.quickshift(
        picture, ratio=0.2, kernel_size=4, max_dist=200, convert2lab=colour, channel_axis=-1, rng=42
    )


def _grid(size: tuple[int, int], segments: int) -> Tensor:
    """Return rectangles, nearly square, about `segments` of them."""
    import torch

    height, width = size
    down = min(height, max(1, round(math.sqrt(segments * height / width))))
    across = min(width, max(1, round(segments / down)))
    rows, columns = torch.arange(height) * down // height, torch.arange(width) * across // width
    return rows[:, None] * across + columns
