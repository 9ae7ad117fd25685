"""SmoothGrad: the mean of an attribution over noisy copies of the input; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_gradients.noisy import Noisy, NoisyOptions
from whylight_gradients.reducing import reduced

if TYPE_CHECKING:
    import torch


class SmoothGradOptions(NoisyOptions):
    """The base, the noise, and whether to square."""

    squared: bool = Field(
        False, description="Mean of the squares (SmoothGrad²), which shows where attributions are large of either sign."
    )


class SmoothGrad(Noisy):
    """Mean of an attribution over noisy copies of the input: less speckle, from any gradient method.

    `1/n Σ_k A(x + ε_k)`, `ε_k ~ N(0, (noise · range of x)²)`, taken for each colour channel, which are reduced at the
    end; `A` is `base`: saliency, guided-backprop, deconvnet, input-x-gradient (of the noisy copy), integrated-gradients
    (from one baseline to each noisy copy). With `squared`, `1/n Σ_k A(x + ε_k)²`. Without noise it is the base. An
    input's noise comes from its seed: the same alone and in any batch. Captum's NoiseTunnel takes the deviation in the
    input's units, ours is a part of the input's range, as in the paper.

    Costs `samples` times the base; with integrated-gradients that is `samples · steps` passes.

    Use it where a gradient map is too speckled to read; try a `noise` of 0.05 to 0.2.

    Avoid it for what is finer than the noise, which it blurs away, and where sums must be exact: they are those of
    noisy copies.
    """

    name = "smoothgrad"
    reference = "Smilkov et al., SmoothGrad: removing noise by adding noise, arXiv:1706.03825"
    Options = SmoothGradOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: SmoothGradOptions) -> torch.Tensor:
        """Return the maps `[M, H, W]` at the size of the input."""
        import torch

        total, maps = torch.empty(0), torch.empty(0)
        for count, one in enumerate(self.of_copies(subject, batch, options), 1):
            one = one.square() if options.squared else one
            total = one.clone() if count == 1 else total.add_(one)
            maps = reduced(total / count, options.reduction)
            batch.report(count, options.samples, maps)
        return maps

    def presentation(self, options: SmoothGradOptions) -> whylight.Presentation:
        """Say whether the sign means something."""
        return whylight.Presentation(signed=options.reduction == "signed" and not options.squared)
