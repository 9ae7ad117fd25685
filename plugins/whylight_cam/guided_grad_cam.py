"""Guided Grad-CAM; knows only its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

import whylight
from whylight_cam.base import ClassActivationMap, SmoothOptions
from whylight_cam.fusing import resized

if TYPE_CHECKING:
    import torch


class GuidedOptions(SmoothOptions):
    """How the colour channels become one map."""

    reduce: Literal["max", "signed"] = Field(
        "max",
        description="How the products of a pixel's colour channels become one number: 'max', the largest magnitude; "
        "'signed', their sum.",
    )


class GuidedGradCAM(ClassActivationMap):
    """Guided backpropagation where Grad-CAM is positive: fine structure, and of this class only.

    `R ∘ up(ReLU(Σ_k α_k A_k))`: the guided gradient `R` at the input, each colour channel times Grad-CAM at the size of
    the input, resized as the profile says: bilinearly, or to the nearest as captum does it by default. One number for
    each pixel: the largest magnitude of its channels, or with `reduce` "signed" their sum.

    Costs Grad-CAM and one pass forward and back through the whole network.

    Use it to see which details count in the place where the class is.

    Avoid it for the question where, which grad-cam answers better: the details are those of guided backpropagation,
    which hardly looks at the upper layers, and only where they are shown depends on the class. A network without any
    ReLU is refused.
    """

    name = "guided-grad-cam"
    scheme = "grad-cam"
    reference = (
        "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017"
    )
    needs = frozenset({whylight.Need.GRADIENTS, whylight.Need.SPATIAL_LAYER, whylight.Need.RELU})
    Options = GuidedOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: GuidedOptions) -> torch.Tensor:
        """Return the maps `[M, H, W]` at the size of the input."""
        maps = super().attribute(subject, batch, options).relu()
        guided = subject.input_gradients(batch, rule=whylight.GuidedRelu())
        size = (guided.shape[2], guided.shape[3])
        products = guided * resized(maps, size, whylight.PROFILES[options.profile])[:, None]
        return products.sum(1) if options.reduce == "signed" else products.abs().amax(1)

    def presentation(self, options: GuidedOptions) -> whylight.Presentation:
        """Say whether the sign means something."""
        return whylight.Presentation(signed=options.reduce == "signed")

    def cost(self, options: GuidedOptions) -> float:
        """Return the cost of Grad-CAM and of a pass there and back through the whole network."""
        return 2.0 + super().cost(options)

    def cost_per_target(self, options: GuidedOptions) -> float:
        """Return the cost of Grad-CAM's share and of one more pass back."""
        return 1.0 + super().cost_per_target(options)
