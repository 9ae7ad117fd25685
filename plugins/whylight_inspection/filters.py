"""The weights of a convolution as pictures; knows no input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_inspection.contact_sheet import coloured, contact_sheet

if TYPE_CHECKING:
    from torch import Tensor


class FiltersOptions(whylight.PlainOptions):
    """Which layer, and how much of it."""

    layer: whylight.Layer | None = Field(
        None, description="Name of a layer with convolution weights; none means the first there is."
    )
    count: int = Field(64, ge=1, le=4096, description="How many filters are shown at most, the first ones.")
    slices: int = Field(
        1, ge=1, le=4096, description="How many input channels of each are shown, where they are not colours."
    )
    colour_map: str = Field("bwr", description="Name of a matplotlib colour map, for weights that are not colours.")


class Filters(whylight.Inspection):
    """The weights of a convolution, each filter as a small picture: what the first layer looks for, edges and colours.

    `w_k`, the kernel of output channel k. Filters on three channels are drawn as colours, those on one as greys, each
    in its own range; others slice by slice, with 0 in the middle of the colour map. Artifacts: "filters"
    `[K, C, h, w]`, the numbers; "grid", the picture.

    Use it to see whether the first layer is trained: edges and colours, or noise.

    Avoid it for deep layers, whose weights are on channels that mean nothing by themselves: there `top-patches` and
    `activation-maximization` say more.
    """

    name = "filters"
    reference = "Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep CNNs, NIPS 2012, figure 3"
    takes = ()
    looks_at_targets = False
    Options = FiltersOptions

    def inspect(
        self, subject: whylight.Subject, task: whylight.InspectionTask, options: FiltersOptions
    ) -> Iterator[whylight.Progress | whylight.Inspected]:
        """Show the filters.

        Raises:
            InvalidInput: the layer has no such weights. NotFound: there is no such layer.
        """
        weights = _weights(subject, options.layer)[: options.count]
        if weights.shape[1] in (1, 3):
            low, high = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
            shares = (weights - low) / (high - low).where(high > low, 1.0)
            pictures = (shares * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
        else:
            slices = weights[:, : options.slices].flatten(0, 1)
            pictures = coloured(slices, options.colour_map, signed=True)
        yield whylight.Inspected(
            artifacts=(
                whylight.Picture.of("grid", contact_sheet(pictures, least_side=28).cpu().numpy()),
                whylight.Map("filters", weights.float().cpu().numpy()),
            )
        )


def _weights(subject: whylight.Subject, layer: str | None) -> Tensor:
    """Return the weights `[K, C, h, w]` of a convolution."""
    candidates = [one.name for one in subject.model.layers] if layer is None else [subject.resolve_layer(layer)]
    for name in candidates:
        weight = subject.model.parameters_of(name).get("weight")
        if weight is not None and weight.dim() == 4:
            return weight
    what = "the model has no layer" if layer is None else f"layer {layer!r} is none"
    raise whylight.InvalidInput(f"{what} with the weights of a 2-D convolution", field="options.layer")
