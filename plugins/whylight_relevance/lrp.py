"""Layer-wise relevance propagation: the target's value, shared out layer by layer; knows its options, not the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

import whylight

if TYPE_CHECKING:
    from typing_extensions import Self

    from whylight_relevance.composites import Composite

CompositeName = Literal[
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-gamma-box",
    "epsilon-alpha2-beta1",
    "epsilon-alpha2-beta1-flat",
    "epsilon",
    "zero",
]
RuleName = Literal["zero", "epsilon", "gamma", "alpha-beta", "z-plus", "box", "w-square", "flat"]


class LRPOptions(whylight.Options):
    """Which rule each layer gets, and the rules' parameters."""

    composite: CompositeName = Field(
        "epsilon-plus",
        description="Rules by kind of layer. 'epsilon-plus': ε for linear layers, z⁺ for convolutions; "
        "'epsilon-alpha2-beta1': ε, and α = 2, β = 1; '-flat': and the flat rule for the first layer; "
        "'epsilon-gamma-box': ε, γ, and zᴮ for the first convolution; 'epsilon' and 'zero': this rule everywhere.",
    )
    epsilon: float = Field(1e-6, ge=0, description="ε of the epsilon rule, in units of a layer's output.")
    gamma: float = Field(0.25, ge=0, description="γ of the gamma rule: contributions of the output's sign count 1 + γ.")
    alpha: float = Field(2.0, ge=1, description="α of the rule 'alpha-beta', where `rules` asks for it; α − β = 1.")
    beta: float = Field(1.0, ge=0, description="β of the rule 'alpha-beta', where `rules` asks for it; α − β = 1.")
    rules: dict[str, RuleName] = Field(
        default_factory=dict,
        max_length=256,
        description="Rules of single layers, or of all layers in a block, in place of the composite's: by their names.",
    )

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if abs(self.alpha - self.beta - 1) > 1e-6:
            raise ValueError("alpha − beta must be 1, or relevance is not conserved")
        return self


class LRP(whylight.Attribution):
    """Layer-wise relevance propagation: the target's value, shared out backward among what contributed to it.

    `R_i = Σ_j (z_ij / Σ_k z_kj) R_j`: each layer hands the relevance of its output to its inputs in proportion to
    what they contributed, `z_ij = x_i w_ij` or what the rule that the composite gives the layer makes of it; the map is
    the sum of a pixel's channels. Batch normalisation is merged into the layer before it, activations let relevance
    through, maximum pooling gives all to the winner, sums and average pooling share in proportion, products give all to
    the signal and none to its gate. A function that no rule covers is refused, with its layer. The README of the
    package has the rules, and a notice on patents.

    Its check: "conservation_ratio" is the sum of the map over the target's value: 1 when nothing went to biases or got
    lost to ε.

    Use it for signed maps that are finer than a layer's and calmer than gradients, and that tell how much of the target
    went where: 'epsilon-plus' for convolutional networks, 'epsilon-gamma-box' for sharper ones.

    Avoid it where the ratio is far from 1, as with large biases: the rest is unexplained. The z⁺ and flat rules make
    maps calm, and those of two classes of the same object alike; where these must be told apart, compare with 'epsilon'
    or grad-cam, or explain a contrast.
    """

    name = "lrp"
    reference = (
        "Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance "
        "Propagation, PLOS ONE 2015; Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019"
    )
    needs = frozenset({whylight.Need.GRADIENTS})
    Options = LRPOptions

    def attribute(self, subject: whylight.Subject, batch: whylight.Batch, options: LRPOptions) -> whylight.Maps:
        """Return the maps `[M, H, W]` at the size of the input.

        Raises:
            NotFound: `rules` names a layer that the model has not (reason LAYER_NOT_FOUND).
            Unsupported: no rule covers a function that the model calls.
        """
        from whylight_relevance.composites import Numbers

        named = {subject.resolve_layer(layer): rule for layer, rule in options.rules.items()}
        numbers = Numbers(options.epsilon, options.gamma, options.alpha, options.beta)
        return relevance(subject, batch, numbers.composite(options.composite, named))

    def presentation(self, options: LRPOptions) -> whylight.Presentation:
        """Say that the sign means something: for the target, or against it."""
        return whylight.Presentation(signed=True)

    def cost(self, options: LRPOptions) -> float:
        """Return the cost of a pass there and back, with up to four linear maps for each layer."""
        return {"epsilon": 2.0, "zero": 2.0}.get(options.composite, 5.0)

    def cost_per_target(self, options: LRPOptions) -> float:
        """Return the cost of one more pass back; all targets share the forward pass."""
        return {"epsilon": 1.0, "zero": 1.0}.get(options.composite, 3.0)


def relevance(subject: whylight.Subject, batch: whylight.Batch, composite: Composite) -> whylight.Maps:
    """Return the relevance of each pixel for each target, `[M, H, W]`, and its sum as a part of the target's value."""
    import torch

    from whylight_relevance.propagation import Propagation

    bounds = _bounds(subject.model.transform) if composite.needs_bounds else None
    maps = subject.input_gradients(batch, rule=Propagation(composite, bounds)).sum(1)
    sums = torch.stack([one.sum() for one in maps])  # One by one: the order of adding must not depend on the batch.
    scores = subject.scores(batch).to(sums.dtype)
    return whylight.Maps(maps, {"conservation_ratio": torch.where(scores == 0, 1, sums / scores)})


def _bounds(transform: whylight.Transform) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what the model sees of black and of white, for each channel."""
    low, high = (
        tuple((whole / transform.scale - mean) / std for mean, std in zip(transform.mean, transform.std, strict=True))
        for whole in (0.0, 255.0)
    )
    return low, high
