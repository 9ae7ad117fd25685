"""VarGrad: the variance of an attribution over noisy copies of the input; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import whylight
from whylight_gradients.noisy import Noisy, NoisyOptions
from whylight_gradients.reducing import reduced

if TYPE_CHECKING:
    import torch


class VarGrad(Noisy):
    """Variance of an attribution over noisy copies of the input: where it depends most on details.

    `1/n Σ_k (A(x + ε_k) − mean)²` for each colour channel, which are reduced at the end; `A` is `base` and
    `ε_k ~ N(0, (noise · range of x)²)`, as in smoothgrad. Without noise it is zero. The sum is Welford's, so that large
    means do not swallow small variances.

    Costs `samples` times the base, as smoothgrad.

    Use it to find edges and objects that a network looks at, whatever the sign.

    Avoid it for evidence and for sums: it has no sign and does not add up to anything.
    """

    name = "vargrad"
    reference = (
        "Adebayo et al., Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values, ICLR "
        "workshop 2018"
    )
    Options = NoisyOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: NoisyOptions) -> torch.Tensor:
        """Return the maps `[M, H, W]` at the size of the input."""
        import torch

        mean, squares, maps = torch.empty(0), torch.empty(0), torch.empty(0)
        for count, one in enumerate(self.of_copies(subject, batch, options), 1):
            if count == 1:
                mean, squares = one.clone(), torch.zeros_like(one)
            else:
                off = one - mean
                mean.add_(off, alpha=1 / count)
                squares.addcmul_(off, one - mean)
            maps = reduced(squares / count, options.reduction)
            batch.report(count, options.samples, maps)
        return maps
