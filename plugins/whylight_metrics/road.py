"""ROAD: insertion and deletion with holes that are filled from their surroundings; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import whylight
from whylight_metrics.per_target import enlarged, per_target, places

if TYPE_CHECKING:
    from torch import Tensor

_Percentage = Annotated[float, Field(gt=0, lt=100)]


class ROADOptions(whylight.PlainOptions):
    """Which pixels are removed, and how many."""

    order: Literal["combined", "most-relevant-first", "least-relevant-first"] = Field(
        "combined",
        description="Which pixels go first. 'combined' does both: half of what is lost without the most relevant ones "
        "and half of what is kept without the least relevant ones.",
    )
    percentages: tuple[_Percentage, ...] = Field(
        (10, 20, 30, 40, 50, 60, 70, 80, 90),
        min_length=1,
        max_length=100,
        description="How many per cent of the pixels are removed, one run for each.",
    )
    noise: float = Field(
        0.01, ge=0, le=10, description="Deviation of the noise on imputed pixels, in the units that the network sees."
    )


class ROAD(whylight.Metric):
    """Change of the class's probability without the most, or least, relevant pixels, imputed; higher is better.

    Removed pixels become weighted means of their neighbours, with a little noise, so that the shape of the hole says
    nothing to the model, which it does where holes are black. The curve is, at each percentage, `f(x) − f(x_most)`,
    `f(x_least) − f(x)`, or the mean of both, and the value its mean. The linear systems are solved for all pictures
    together, to a relative residual of 1e-6. Of a target that is no class, the value itself is taken.
    """

    name = "road"
    reference = "Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022"
    stochastic = True
    Options = ROADOptions

    def measure(
        self,
        subject: whylight.Subject,
        batch: whylight.Batch,
        maps: Tensor,
        explain: whylight.Explain,
        options: ROADOptions,
    ) -> whylight.Measured:
        """Return the mean change and the curve of each target."""
        import torch

        from whylight_metrics.imputation import imputed

        own = per_target(subject, batch)
        inputs = own.inputs
        relevant = enlarged(maps, inputs)
        pixels = relevant[0].numel()
        counts = [min(max(round(part * pixels / 100), 1), pixels - 1) for part in options.percentages]
        most = options.order != "least-relevant-first"
        least = options.order != "most-relevant-first"
        runs = [(places(relevant), count) for count in counts] if most else []
        runs += [(places(-relevant), count) for count in counts] if least else []
        noise = torch.stack([_noise(own, row, options.noise) for row in range(len(inputs))])

        def altered(block: range) -> Tensor:
            return torch.stack([inputs if copy == 0 else without(*runs[copy - 1]) for copy in block])

        def without(place: Tensor, count: int) -> Tensor:
            removed = place < count
            return imputed(inputs, removed) + noise * removed[:, None]

        scores = torch.cat([values for _, values in subject.altered_score_blocks(own, len(runs) + 1, altered)]).double()
        whole, rest = scores[0], scores[1:]
        changes = []
        if most:
            changes.append(whole - rest[: len(counts)])
        if least:
            changes.append(rest[-len(counts) :] - whole)
        y = (changes[0] if len(changes) == 1 else (changes[0] + changes[1]) / 2).T.contiguous()
        x = torch.tensor(counts, device=inputs.device).double() / pixels
        return whylight.Measured(y.mean(1), whylight.Curve(x, y))

    def cost(self, options: ROADOptions) -> float:
        """Return the number of runs, and as much again for the imputation."""
        orders = 2 if options.order == "combined" else 1
        return 2.0 * orders * len(options.percentages) + 1


def _noise(batch: whylight.Batch, row: int, deviation: float) -> Tensor:
    """Return the noise of one input `[C, H, W]`, the same for all percentages, so that only the holes differ."""
    import torch

    input = batch.inputs[row]
    if deviation == 0:
        return torch.zeros_like(input)
    drawn = torch.randn(input.shape, generator=batch.generator(row), device=input.device, dtype=input.dtype)
    return deviation * drawn
