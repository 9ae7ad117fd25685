"""Composites: which rule a layer gets, by what it is and whether it is the first; knows no model and no run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whylight_relevance.lrp import CompositeName, RuleName
from whylight_relevance.rules import STABILISER, AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, ZPlus


@dataclass(frozen=True)
class Composite:
    """The rule of each kind of layer.

    `first_convolution` and `first_linear` are for layers that take the model's input, if these get a rule of their
    own. `affine` is the ε of normalisations that follow no convolution; None passes relevance through them.
    `weightless` is the ε of sums, average pooling and other linear functions without weights. `named` are exceptions:
    layers, or blocks of layers, and the rule of all that is in them; of several, the innermost counts.
    """

    convolution: Rule
    linear: Rule
    first_convolution: Rule | None = None
    first_linear: Rule | None = None
    affine: float | None = None
    weightless: float = STABILISER
    named: tuple[tuple[str, Rule], ...] = ()

    @property
    def needs_bounds(self) -> bool:
        """Whether any rule asks between what bounds the model's input is."""
        rules = (self.first_convolution, self.first_linear, *(rule for _, rule in self.named))
        return any(isinstance(rule, ZBox) for rule in rules)

    def rule(self, layer: str, *, convolution: bool, first: bool) -> Rule:
        """Return the rule of a layer with weights."""
        named = self._named(layer)
        if named is not None:
            return named
        special = (self.first_convolution if convolution else self.first_linear) if first else None
        return special or (self.convolution if convolution else self.linear)

    def affine_epsilon(self, layer: str) -> float | None:
        """Return the ε of a normalisation that follows no convolution; None is to pass relevance through."""
        named = self._named(layer)
        return named.epsilon if isinstance(named, Epsilon) else self.affine

    def _named(self, layer: str) -> Rule | None:
        inside = [(len(name), rule) for name, rule in self.named if layer == name or layer.startswith(name + ".")]
        return max(inside, key=lambda found: found[0])[1] if inside else None


@dataclass(frozen=True)
class Numbers:
    """The parameters of the rules that have any."""

    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0
    beta: float = 1.0

    def rule(self, name: RuleName) -> Rule:
        """Return the rule called `name`."""
        rules: dict[RuleName, Rule] = {
            "zero": Epsilon(0.0),
            "epsilon": Epsilon(self.epsilon),
            "gamma": Gamma(self.gamma),
            "alpha-beta": AlphaBeta(self.alpha, self.beta),
            "z-plus": ZPlus(),
            "box": ZBox(),
            "w-square": WSquare(),
            "flat": Flat(),
        }
        return rules[name]

    def composite(self, name: CompositeName, named: Mapping[str, RuleName]) -> Composite:
        """Return the composite called `name`, with the exceptions `named`."""
        epsilon, exceptions = Epsilon(self.epsilon), tuple((layer, self.rule(rule)) for layer, rule in named.items())
        if name in ("epsilon", "zero"):
            uniform = epsilon if name == "epsilon" else Epsilon(0.0)
            weightless = STABILISER if name == "epsilon" else 0.0
            return Composite(uniform, uniform, affine=uniform.epsilon, weightless=weightless, named=exceptions)
        if name == "epsilon-gamma-box":
            return Composite(Gamma(self.gamma), epsilon, first_convolution=ZBox(), named=exceptions)
        convolution = ZPlus() if name.startswith("epsilon-plus") else AlphaBeta(2.0, 1.0)
        first = Flat() if name.endswith("-flat") else None
        return Composite(convolution, epsilon, first, first, named=exceptions)


def deep_taylor(*, bounded: bool) -> Composite:
    """Return the rules of Montavon et al. 2017: z⁺ without bias inside, zᴮ or w² at the input."""
    first: Rule = ZBox() if bounded else WSquare()
    return Composite(ZPlus(bias=False), ZPlus(bias=False), first, first)
