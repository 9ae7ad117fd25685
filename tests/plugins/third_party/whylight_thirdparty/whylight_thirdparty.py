"""How much of a layer's energy lies at each position; knows nothing of the server."""

from pydantic import Field

import whylight


class Energy(whylight.Attribution):
    """Norm of the activations of a layer over its channels."""

    name = "energy"
    needs = frozenset({whylight.Need.SPATIAL_LAYER})

    class Options(whylight.Options):
        layer: whylight.Layer = whylight.LAST_SPATIAL
        order: int = Field(2, ge=1, le=8, description="Order of the norm.")

    def attribute(self, subject, batch, options):
        activations = subject.activations(batch, options.layer)[options.layer]  # [N, C, h, w]
        maps = activations.norm(options.order, dim=1)  # [N, h, w]
        return maps[list(batch.rows)]  # one for each target


@whylight.hookimpl
def whylight_methods():
    return [Energy]
