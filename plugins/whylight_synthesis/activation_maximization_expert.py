"""Activation maximisation with a learned prior: an expert's density beside the objective; knows no expert's inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

import whylight
from whylight_synthesis.activation_maximization import ActivationMaximization, ActivationMaximizationOptions
from whylight_synthesis.base import make
from whylight_synthesis.other_models import density
from whylight_synthesis.regularisation import operators_of, terms_of

if TYPE_CHECKING:
    from torch import Tensor


class ExpertOptions(ActivationMaximizationOptions):
    """Who says what an image is, and how much that counts."""

    expert: whylight.ServedModel = Field(
        description="Name of a served model that gives the log of a density of pictures, one number.",
    )
    weight: float = Field(0.1, ge=0, description="Weight λ of the log-density.")


class ActivationMaximizationExpert(ActivationMaximization):
    """An image that makes the model answer strongly and that an expert takes for a likely one.

    `argmax_x Φ(x) + λ log p(x) - Σ R(x)`: Φ the target, p the expert's density, such as an RBM's (minus its free
    energy) or a VAE's lower bound, known up to a factor.

    Use it where there is a density of the model's own domain.

    Avoid it with one of other pictures, which pulls away from what the model knows.
    """

    name = "activation-maximization-expert"
    reference = (
        "Montavon, Samek and Müller, Methods for Interpreting and Understanding Deep Neural Networks, Digital Signal "
        "Processing 2018, section 3.2"
    )
    Options: ClassVar[type[ActivationMaximizationOptions]] = ExpertOptions

    def synthesise(
        self, subject: whylight.Subject, task: whylight.SynthesisTask, options: ActivationMaximizationOptions
    ) -> Iterator[whylight.Progress | whylight.Pause | whylight.Synthesised]:
        """Make the pictures of `task`."""
        import torch

        assert isinstance(options, ExpertOptions)
        log_density = density(subject.other(options.expert, field="options.expert"))
        generators = task.generators()
        held = self._held(subject, task, options, generators)

        def valued(images: Tensor) -> Tensor:
            with torch.no_grad():
                return log_density(images)

        before = valued(held.images().detach())

        def checks(images: Tensor) -> dict[str, Tensor]:
            found = {"log_density_before": before, "log_density": valued(images)}
            return {**found, **self._checks(subject, task, options, images)}

        yield from make(
            subject,
            task,
            options,
            held,
            [
                self._objective(subject, task, options),
                whylight.synthesis.LogDensity(options.weight, log_density=log_density),
                *terms_of(options.regularisers),
            ],
            operators=operators_of(options.regularisers),
            robustness=options.robustness(),
            generators=generators,
            stop=self._stop(subject, task, options),
            checks=checks,
        )

    def cost(self, options: ActivationMaximizationOptions) -> float:
        """Return the cost of a pass there and back of both models at every step, the expert taken to be as large."""
        return 6.0 * options.steps
