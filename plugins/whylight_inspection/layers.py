"""The tree of a model's layers as a table; knows no input."""

from __future__ import annotations

from collections.abc import Iterator

import whylight


class Layers(whylight.Inspection):
    """The model's layers in the order of their definition: name, class, shape of the output, parameters.

    Artifact "layers", a table. The shape is for one input of the model's own size, empty where a layer does not run or
    gives no single tensor.

    Use it to find the names by which other methods know layers.

    Avoid it for the order of the run: a definition may list layers in any order.
    """

    name = "layers"
    takes = ()
    looks_at_targets = False

    def inspect(
        self, subject: whylight.Subject, task: whylight.InspectionTask, options: whylight.PlainOptions
    ) -> Iterator[whylight.Progress | whylight.Inspected]:
        """List the layers."""
        rows = tuple(
            (layer.name, layer.type, " x ".join(map(str, layer.output_shape)), layer.parameter_count)
            for layer in subject.model.layers
        )
        yield whylight.Inspected((whylight.Table("layers", ("name", "type", "output", "parameters"), rows),))
