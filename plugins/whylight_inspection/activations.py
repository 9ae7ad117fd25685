"""What the channels of a layer answer to an input, as maps; knows no class."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

import whylight
from whylight_inspection.contact_sheet import coloured, contact_sheet


class ActivationsOptions(whylight.PlainOptions):
    """Which layer, and which of its channels."""

    layer: whylight.Layer = whylight.LAST_SPATIAL
    channels: tuple[int, ...] = Field(
        (), max_length=4096, description="Channels to show, in this order; none means the `count` strongest."
    )
    count: int = Field(16, ge=1, le=4096, description="How many of the strongest are shown, by their mean magnitude.")
    colour_map: str = Field("viridis", description="Name of a matplotlib colour map.")


class Activations(whylight.Inspection):
    """The maps of a layer's channels for one input, the strongest first, and how many channels stay dead.

    `A_k`, what channel k gives at every position. Artifacts: "activations" `[K, h, w]`, the numbers; "grid", the same
    as a picture, each map in its own range; "channels", a table of their numbers, means and maxima.

    Its check "dead_share": the share of all the layer's channels that nowhere exceed 0.

    Use it to see what a layer keeps of a picture, and whether channels have died.

    Avoid it for comparing brightness between maps of the grid: each has its own range. The table has the numbers.
    """

    name = "activations"
    reference = "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4"
    needs = frozenset({whylight.Need.SPATIAL_LAYER})
    takes = ("picture",)
    looks_at_targets = False
    Options = ActivationsOptions

    def inspect(
        self, subject: whylight.Subject, task: whylight.InspectionTask, options: ActivationsOptions
    ) -> Iterator[whylight.Progress | whylight.Inspected]:
        """Show the channels of the one input.

        Raises:
            InvalidInput: there is not just one input, or the layer has no such channel.
        """
        if len(task.inputs) != 1:
            raise whylight.InvalidInput(f"this shows one input; there are {len(task.inputs)}", field="inputs")
        name = subject.resolve_layer(options.layer)
        found = subject.observe(task.inputs, (name,), output=False).layers[name].detach()[0]
        if found.dim() != 3:
            raise whylight.InvalidInput(
                f"layer {name!r} gives {list(found.shape)}, no maps [channels, height, width]", field="options.layer"
            )
        strength = found.abs().mean((1, 2))
        wrong = [channel for channel in options.channels if not 0 <= channel < len(found)]
        if wrong:
            raise whylight.InvalidInput(
                f"layer {name!r} has no channel {wrong[0]}; there are {len(found)}", field="options.channels"
            )
        strongest = strength.argsort(descending=True, stable=True)[: options.count].tolist()
        chosen = list(options.channels) or strongest
        maps = found[chosen]
        sheet = contact_sheet(coloured(maps, options.colour_map, signed=False), least_side=56)
        rows = zip(chosen, maps.mean((1, 2)).tolist(), maps.amax((1, 2)).tolist(), strict=True)
        yield whylight.Inspected(
            artifacts=(
                whylight.Picture.of("grid", sheet.cpu().numpy()),
                whylight.Map("activations", maps.float().cpu().numpy()),
                whylight.Table("channels", ("channel", "mean", "maximum"), tuple(rows)),
            ),
            checks={"dead_share": float((found.amax((1, 2)) <= 0).float().mean())},
        )
