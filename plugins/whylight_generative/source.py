"""The built-in autoencoders as models: ``vae:128``, ``vae:32``, their decoders ``vae:128-decoder``; trains none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import whylight

if TYPE_CHECKING:
    from torch import nn

    from whylight_generative.variational_autoencoder import Architecture

_DECODER = "-decoder"


class GenerativeSource(whylight.ModelSource):
    """Opens the definitions of this package; weights are a file of the operator's, as examples/train_vae.py makes.

    An autoencoder's output is its reconstruction, its latents are the means. A decoder takes codes `[L, 1, 1]`.
    """

    scheme = "vae"

    def open(self, name: str, *, pretrained: bool) -> whylight.OpenedModel:
        """Return the model `name`, without trained weights.

        Raises:
            NotFound: there is no such model. InvalidInput: there are no weights of the package's own.
        """
        if name not in self.names():
            raise whylight.NotFound(
                f"there is no vae:{name}; there are {', '.join(self.names())}", reason="MODEL_NOT_FOUND", field="source"
            )
        if pretrained:
            raise whylight.InvalidInput(
                f"vae:{name} has no weights of its own: train one (examples/train_vae.py) and name the file, or take "
                "random:SEED",
                field="weights",
            )
        architecture = _architectures()[name.removesuffix(_DECODER)]
        if name.endswith(_DECODER):
            plain = whylight.Transform.plain((1, 1), architecture.latents)
            return whylight.OpenedModel(_decoder(architecture), plain)
        plain = whylight.Transform.plain((architecture.size, architecture.size), architecture.channels)
        from whylight_generative.variational_autoencoder import VariationalAutoencoder

        last = f"encoder.features.{2 * len(architecture.widths) - 1}"
        return whylight.OpenedModel(
            VariationalAutoencoder(architecture), plain, output="reconstruction", latent="mean", last_spatial=last
        )

    def names(self) -> Iterable[str]:
        """Return the names that are known."""
        return [name + suffix for name in ("128", "32") for suffix in ("", _DECODER)]


def _architectures() -> dict[str, Architecture]:
    from whylight_generative.variational_autoencoder import VAE_32, VAE_128

    return {"128": VAE_128, "32": VAE_32}


def _decoder(architecture: Architecture) -> nn.Module:
    from whylight_generative.variational_autoencoder import Decoder

    return Decoder(architecture)
