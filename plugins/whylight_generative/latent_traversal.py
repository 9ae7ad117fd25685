"""What a latent stands for: pictures decoded while it alone moves, beside where it looks; knows no class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_generative.latent_grad_cam import LatentGradCAM, LatentGradCAMOptions

if TYPE_CHECKING:
    from torch import Tensor


class LatentTraversalOptions(whylight.PlainOptions):
    """Which latents move, how far, and who decodes."""

    decoder: whylight.ServedModel = Field(
        description="Name of a served model that takes codes [L, 1, 1] and gives pictures.",
    )
    latents: tuple[int, ...] = Field(
        (), max_length=1024, description="Latents that move, one row each; none means the targets that are latents."
    )
    reach: float = Field(3.0, gt=0, le=100, description="How far to either side, in deviations of the prior.")
    steps: int = Field(7, ge=2, le=101, description="Pictures for each latent.")
    layer: whylight.Layer = whylight.LAST_SPATIAL


class LatentTraversal(whylight.Inspection):
    """Pictures decoded from an input's code while one latent moves and the others stay, beside where that latent looks.

    Each row is a latent: its heat map (`latent-grad-cam`) over the input, then `g(z + (v - z_i) e_i)` for v from -reach
    to reach. Artifacts: "traversal", the picture; "heat_maps" `[K, h, w]`; "changes", how much of the picture each
    moves on average, a table.

    Use it to see what a latent stands for; a row that does not change is one that is not used.

    Avoid it with a reach far beyond 3: the decoder has seen no such codes.
    """

    name = "latent-traversal"
    reference = "Higgins et al., beta-VAE, ICLR 2017, figures 1 to 3; Liu et al., CVPR 2020, figure 6"
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.SPATIAL_LAYER, whylight.Need.LATENTS})
    takes = ("picture",)
    Options = LatentTraversalOptions

    def inspect(
        self, subject: whylight.Subject, task: whylight.InspectionTask, options: LatentTraversalOptions
    ) -> Iterator[whylight.Progress | whylight.Inspected]:
        """Move the latents of the one input's code.

        Raises:
            InvalidInput: there is not just one input, no latent is named, or there is no such latent.
            NotFound: no such decoder is served.
        """
        import torch

        if len(task.inputs) != 1:
            raise whylight.InvalidInput(
                f"this moves the code of one input; there are {len(task.inputs)}", field="inputs"
            )
        latents = options.latents or tuple(t.index for t in task.targets if isinstance(t, whylight.Latent))
        if not latents:
            raise whylight.InvalidInput("name at least one latent", field="options.latents")
        targets = tuple(whylight.Latent(latent) for latent in latents)
        batch = whylight.Batch(task.inputs, targets, (0,) * len(latents), task.cancel, (task.seed,))
        code = subject.latents(batch)[0]
        maps = LatentGradCAM().attribute(subject, batch, LatentGradCAMOptions(layer=options.layer)).relu()
        decode = subject.other(options.decoder, field="options.decoder")
        values = torch.linspace(-options.reach, options.reach, options.steps, dtype=code.dtype, device=code.device)
        rows, changes = [], []
        for number, latent in enumerate(latents):
            codes = code.repeat(options.steps, 1)
            codes[:, latent] = values
            pictures = decode.forward(codes[:, :, None, None]).clamp(0, 1)
            pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
            changes.append((latent, float(code[latent]), float((pictures[-1] - pictures[0]).abs().mean())))
            rows.append(torch.cat([_overlaid(subject.images_of(task.inputs)[0], maps[number], pictures), *pictures], 2))
            yield whylight.Progress(number + 1, len(latents))
        sheet = (torch.cat(rows, 1).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        yield whylight.Inspected(
            artifacts=(
                whylight.Picture.of("traversal", sheet),
                whylight.Map("heat_maps", maps.float().cpu().numpy()),
                whylight.Table("changes", ("latent", "value", "change"), tuple(changes)),
            )
        )


def _overlaid(picture: Tensor, heat: Tensor, like: Tensor) -> Tensor:
    """Return the map over the picture, RGB in 0..1, at the size and with the channels of the decoded pictures."""
    size = (like.shape[2], like.shape[3])
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    pixels = pixels.expand(-1, -1, 3) if pixels.shape[2] == 1 else pixels
    drawn = whylight.ops.cam_overlay(
        heat[None].float().contiguous(),
        size,
        whylight.ops.Scale(),
        whylight.ops.colour_table("turbo").to(heat.device),
        images=pixels[None].contiguous(),
        opacity=0.5,
    )
    return drawn.values[0].permute(2, 0, 1).to(like.dtype) / 255
