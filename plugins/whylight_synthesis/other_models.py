"""What methods ask of a second model: pictures for codes, a density for pictures; knows no loop and no objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import whylight

if TYPE_CHECKING:
    from torch import Tensor

Scale: TypeAlias = Literal["0..1", "-1..1"]
"""From where to where a generator's pixels go: behind a sigmoid, or behind a hyperbolic tangent."""

ROOM = 0.02
"""How far pixels may lie outside their scale, as rounding does."""


def fitted(pictures: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Return pictures `[R, c, h, w]` as `[R, channels, *size]`; differentiable.

    Grey becomes RGB of three equal channels, RGB becomes its luminance (ITU-R BT.601); sizes bilinearly, antialiased.
    """
    import torch
    import torch.nn.functional as F

    if pictures.shape[1] == 1 and channels > 1:
        pictures = pictures.expand(-1, channels, -1, -1)
    elif pictures.shape[1] == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=pictures.dtype, device=pictures.device)
        pictures = (pictures * weights[:, None, None]).sum(1, keepdim=True)
    elif pictures.shape[1] != channels:
        raise whylight.Unsupported(
            f"pictures of {pictures.shape[1]} channels cannot be shown to a model that takes {channels}"
        )
    if tuple(pictures.shape[2:]) == tuple(size):
        return pictures
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)


def decoder(generator: whylight.Subject, scale: Scale, channels: int, size: tuple[int, int]) -> Callable[..., Tensor]:
    """Return what makes pictures `[R, channels, *size]`, 0 black and 1 white, of codes `[R, D, 1, 1]`.

    Raises:
        Unsupported: the model takes something other than codes, or gives something other than pictures.
    """
    model = generator.model
    takes = [model.input_channels, *model.input_size]
    if model.input_size != (1, 1) or len(model.output_shape) != 3 or model.output_shape[0] not in (1, 3):
        raise whylight.Unsupported(
            f"model {model.name!r} takes {takes} and gives {list(model.output_shape)}; a generator takes codes "
            "[D, 1, 1] and gives pictures [1 or 3, H, W]",
            field="options.generator",
        )

    def decode(codes: Tensor) -> Tensor:
        made = generator.observe(codes).output
        assert made is not None
        low = 0.0 if scale == "0..1" else -1.0
        least, most = float(made.detach().min()), float(made.detach().max())
        if least < low - ROOM or most > 1 + ROOM:
            raise whylight.InvalidInput(
                f"model {model.name!r} gives pixels from {least:.2f} to {most:.2f}, which are not {scale}",
                reason="OPTION_INVALID",
                field="options.pixels",
            )
        return fitted((made - low) / (1 - low), channels, size).clamp(0, 1)

    return decode


def density(expert: whylight.Subject) -> Callable[[Tensor], Tensor]:
    """Return what gives the log-density `[R]` of images `[R, C, H, W]`, up to a constant; differentiable.

    Raises:
        Unsupported: the model gives something other than one number.
    """
    model = expert.model
    if model.output_shape not in ((), (1,)):
        raise whylight.Unsupported(
            f"model {model.name!r} gives {list(model.output_shape)}; an expert gives one number, the log of a density",
            field="options.expert",
        )

    def log_density(images: Tensor) -> Tensor:
        shown = fitted(images, model.input_channels, model.input_size)
        found = expert.observe(expert.inputs_of(shown)).output
        assert found is not None
        return found.flatten()

    return log_density
