"""MACO: activation maximisation that changes the phases of a natural spectrum only; knows no regulariser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

import whylight
from whylight_synthesis.base import RobustOptions, make, named

if TYPE_CHECKING:
    from torch import Tensor


class MacoOptions(RobustOptions):
    """How it is seen, and how strong its contrasts are."""

    contrast: float = Field(
        1.0, gt=0, le=16, description="Deviation of the pixels' logits, where no picture gives the spectrum."
    )
    steps: int = Field(256, ge=1, le=100_000, description="Steps of the optimiser.")
    learning_rate: float = Field(
        0.1, gt=0, le=1000, description="Length of a step in radians, in the optimiser's measure."
    )
    scale: float = Field(0.2, ge=0, lt=1, description="Largest random change of size.")


class Maco(whylight.Synthesis):
    """An image that a class or a neuron answers strongly, among the images with the spectrum of natural ones.

    The magnitudes of the Fourier transform stay, only the phases are optimised: no regulariser is needed to keep high
    frequencies out. The magnitudes are those of the picture given, or fall with the frequency as `1/f` (the average of
    natural images, Field 1987; the paper takes ImageNet's own, which no package that we may ship holds).

    Use it for large images of deep networks, where activation-maximization needs much regularising.

    Avoid it where frequencies are the point: those are given, not found.
    """

    name = "maco"
    reference = (
        "Fel et al., Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization, "
        "NeurIPS 2023"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    stochastic = True
    takes = ("spectrum?",)
    Options = MacoOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: MacoOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        import torch

        parts = whylight.synthesis
        generators = task.generators()
        magnitude = _magnitude(task, options)
        shape = (task.pictures.shape[2], task.size[0], task.size[1] // 2 + 1)
        turns = [torch.rand(shape, generator=g, dtype=torch.float64) for g in generators]
        phases = (2 * math.pi * torch.stack(turns)).to(task.pictures)
        term = parts.Score(aims=tuple(subject.aim(target) for target in named(task)))
        held = parts.Phase(phases, magnitude, task.size)
        yield from make(subject, task, options, held, [term], robustness=options.robustness(), generators=generators)

    def cost(self, options: MacoOptions) -> float:
        """Return the cost of a pass there and back at every step."""
        return 3.0 * options.steps


def _magnitude(task: whylight.SynthesisTask, options: MacoOptions) -> Tensor:
    """Return the magnitudes `[B, C, H, W // 2 + 1]`, or the same `[C, H, W // 2 + 1]` for all."""

    if task.pictures.shape[1]:
        spectrum = whylight.synthesis.Fourier(task.pictures[:, 0]).spectrum()
        return spectrum.abs()
    wavelength = whylight.synthesis.spectrum_scale(task.size)
    wavelength[0, 0] = 0  # the mean stays grey
    power = wavelength.square()
    # The columns between the first and the last stand for two each.
    total = 2 * power.sum() - power[:, 0].sum() - (power[:, -1].sum() if task.size[1] % 2 == 0 else 0)
    scaled = wavelength * options.contrast * math.sqrt(task.size[0] * task.size[1] / float(total))
    return scaled.to(task.pictures).expand(task.pictures.shape[2], -1, -1).contiguous()
