"""What an autoencoder makes of a picture, and what its latents hold; knows no class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

import whylight

if TYPE_CHECKING:
    from torch import Tensor


class ReconstructionOptions(whylight.PlainOptions):
    """Where the two halves of a code are."""

    mean: str = Field("encoder.mean", max_length=256, description="Layer that gives the means of the code.")
    log_variance: str = Field("encoder.log_variance", max_length=256, description="Layer that gives its log-variances.")


class Reconstruction(whylight.Inspection):
    """A picture, what the autoencoder makes of it, where they differ, and how much each latent holds.

    Artifacts: pictures "input", "reconstruction", "error" (`mean_c |x - x̂|`, brightest where it is largest); the table
    "latents": mean, deviation and divergence `KL(q(z_i|x) || N(0, 1))` in nats, the largest first.

    Its checks: "psnr" in dB, "divergence" of all latents.

    Use it to see what is lost, and which latents hold something: one of divergence 0 says nothing of the picture.

    Avoid it for comparing the brightness of error pictures: each has its own range.
    """

    name = "reconstruction"
    reference = "Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014"
    needs = frozenset({whylight.Need.LATENTS})
    takes = ("picture",)
    looks_at_targets = False
    Options = ReconstructionOptions

    def inspect(
        self, subject: whylight.Subject, task: whylight.InspectionTask, options: ReconstructionOptions
    ) -> Iterator[whylight.Progress | whylight.Inspected]:
        """Show the reconstruction of the one input.

        Raises:
            InvalidInput: there is not just one input. NotFound: there is no such layer.
            Unsupported: the model's output is no picture of the size of its input.
        """
        if len(task.inputs) != 1:
            raise whylight.InvalidInput(f"this shows one input; there are {len(task.inputs)}", field="inputs")
        names = (subject.resolve_layer(options.mean), subject.resolve_layer(options.log_variance))
        found = subject.observe(task.inputs, names)
        assert found.output is not None
        if found.output.shape != task.inputs.shape:
            raise whylight.Unsupported(
                f"the model gives {list(found.output.shape[1:])} for inputs {list(task.inputs.shape[1:])}",
                field="model",
            )
        picture, made = (subject.images_of(one.detach())[0].clamp(0, 1) for one in (task.inputs, found.output))
        mean, log_variance = (found.layers[name].detach()[0] for name in names)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
        error = (picture - made).abs().mean(0, keepdim=True)
        order = divergence.argsort(descending=True, stable=True).tolist()
        rows = tuple(
            (latent, float(mean[latent]), float((log_variance[latent] / 2).exp()), float(divergence[latent]))
            for latent in order
        )
        yield whylight.Inspected(
            artifacts=(
                picture_of("input", picture),
                picture_of("reconstruction", made),
                picture_of("error", error / error.max().clamp_min(1e-12)),
                whylight.Table("latents", ("latent", "mean", "deviation", "divergence"), rows),
            ),
            checks={
                "psnr": float(-10 * (picture - made).square().mean().clamp_min(1e-12).log10()),
                "divergence": float(divergence.sum()),
            },
        )


def picture_of(name: str, image: Tensor) -> whylight.Picture:
    """Return an image `[1 or 3, H, W]` of 0 (black) to 1 (white) as a picture."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return whylight.Picture.of(name, pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
