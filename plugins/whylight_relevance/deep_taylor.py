"""Deep Taylor decomposition: LRP by the rules that follow from Taylor expansions; knows only its options."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

import whylight
from whylight_relevance.lrp import relevance


class DeepTaylorOptions(whylight.Options):
    """What is known of the input."""

    input: Literal["box", "unbounded"] = Field(
        "box",
        description="Rule of the first layer: 'box', zᴮ, for pixels between black and white; 'unbounded', w², for "
        "inputs that may be anything.",
    )


class DeepTaylor(whylight.Attribution):
    """Deep Taylor decomposition: z⁺ in every layer, and at the input the rule of its domain.

    `R_i = Σ_j (x_i w_ij⁺ / Σ_k x_k w_kj⁺) R_j` in layers of ReLU networks: each neuron's relevance is expanded at a
    root point where it vanishes, and its first-order terms go to the inputs. This is the z⁺ rule without biases; for
    pixels it is the rule zᴮ of their box, for unbounded inputs w². It is meant for targets with a positive value, whose
    relevance is nowhere negative; where the value is negative, so is the map.

    Its check: "conservation_ratio" is the sum of the map over the target's value.

    Use it for calm maps of where a ReLU network found what it answers.

    Avoid it to tell classes apart, for without negative contributions maps of two classes are much alike (lrp with
    'epsilon', grad-cam), and for evidence against a class, which it cannot show.
    """

    name = "deep-taylor"
    reference = (
        "Montavon et al., Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition, Pattern "
        "Recognition 2017"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    Options = DeepTaylorOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: DeepTaylorOptions) -> whylight.Maps:
        """Return the maps `[M, H, W]` at the size of the input.

        Raises:
            Unsupported: no rule covers a function that the model calls.
        """
        from whylight_relevance.composites import deep_taylor

        return relevance(subject, batch, deep_taylor(bounded=options.input == "box"))

    def presentation(self, options: DeepTaylorOptions) -> whylight.Presentation:
        """Say that the sign means something: that of the target's value."""
        return whylight.Presentation(signed=True)

    def cost(self, options: DeepTaylorOptions) -> float:
        """Return the cost of a pass there and back, with up to two linear maps for each layer."""
        return 4.0

    def cost_per_target(self, options: DeepTaylorOptions) -> float:
        """Return the cost of one more pass back; all targets share the forward pass."""
        return 2.0
