"""The rules by which a layer with weights shares relevance out, as data; knows neither models nor functions of torch.

Sources: Bach et al. 2015 (ε, αβ), Montavon et al. 2017 (z⁺, zᴮ, w²), Lapuschkin et al. 2019 (flat), Montavon et al.
2019 (γ); for inputs of both signs, γ and z⁺ as Andéol et al. 2021 generalise them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import whylight
from whylight_relevance.shares import Made, Part, Proportional, Share, part

Weights = Callable[[Tensor], Tensor]
"""What a rule makes of a layer's weights."""

STABILISER = 1e-9
"""Added to denominators of rules that have no ε of their own, with their sign."""


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A layer with weights as it ran: ``compute(input, weight, bias)``; `bounds` are of the input, if it has any.

    `scale` is that of a normalisation behind it, which multiplies the weights of each output channel. What the rules
    make of the weights is made anew when it is needed, there and back: kept until the way back, it would be as large as
    the model, or several times so, and no batch could be small enough. With `rows`, for layers whose weights are a
    matrix, they are made in blocks of so many rows, which are as many outputs.
    """

    compute: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    layer: str
    bounds: tuple[Tensor, Tensor] | None = None
    scale: Tensor | None = None
    rows: int | None = None

    def part(
        self, input: Tensor, of_weight: Weights, bias: Tensor | None, *, sign: float = 1.0, weighed: bool = True
    ) -> Part:
        """Compute it with another input and with what `of_weight` makes of the weights."""
        return part(lambda leaf: self.value(leaf, of_weight, bias), input, sign=sign, weighed=weighed)

    def value(self, input: Tensor, of_weight: Weights, bias: Tensor | None) -> Tensor:
        """Return the output for an input, with its graph if the input has one."""
        if self.rows is None or len(self.weight) <= self.rows:
            return self._block(input, of_weight, bias, slice(None))
        blocks = (slice(first, first + self.rows) for first in range(0, len(self.weight), self.rows))
        return torch.cat([self._block(input, of_weight, bias, rows) for rows in blocks], -1)

    def same_sign(self, *, bias: bool) -> list[Part]:
        """Return the parts whose contributions are positive: positive inputs and weights, negative ones of both."""
        positive = self.bias.clamp(min=0) if bias and self.bias is not None else None
        return self.of_signs(_positive, _negative, positive)

    def opposite_sign(self, *, bias: bool) -> list[Part]:
        """Return the parts whose contributions are negative."""
        negative = self.bias.clamp(max=0) if bias and self.bias is not None else None
        return self.of_signs(_negative, _positive, negative)

    def of_signs(self, of_positive: Weights, of_negative: Weights, bias: Tensor | None) -> list[Part]:
        """Return parts with one weight for positive inputs and another for negative ones, if there are any."""
        parts = [self.part(self.input.clamp(min=0), of_positive, bias)]
        if bool((self.input < 0).any()):
            parts.append(self.part(self.input.clamp(max=0), of_negative, None))
        return parts

    def _block(self, input: Tensor, of_weight: Weights, bias: Tensor | None, rows: slice) -> Tensor:
        def weight() -> Tensor:
            own = self.weight[rows]
            if self.scale is not None:
                own = own * self.scale[rows].view(-1, *(1,) * (own.dim() - 1))
            return of_weight(own.to(self.input.dtype))

        biases = None if bias is None else bias[rows]
        return Made(weight).used_by(lambda made: self.compute(input, made, biases))


def as_they_are(weight: Tensor) -> Tensor:
    """Return weights as they are."""
    return weight


def _positive(weight: Tensor) -> Tensor:
    return weight.clamp(min=0)


def _negative(weight: Tensor) -> Tensor:
    return weight.clamp(max=0)


class Rule(abc.ABC):
    """How a layer with weights shares relevance out. Rules are frozen dataclasses."""

    @abc.abstractmethod
    def share(self, linear: LinearMap, plain: Part | None) -> Share:
        """Return what takes the relevance of the layer's output to that of its input.

        `plain` is the layer as it ran, if `reuses`.
        """

    @property
    def reuses(self) -> bool:
        """Whether the rule goes back through the layer as it ran."""
        return False


@dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-ε: in proportion to the contributions, `z + ε sign(z)` below; with ε = 0, LRP-0."""

    epsilon: float = 1e-6

    def share(self, linear: LinearMap, plain: Part | None) -> Share:
        """See `Rule`."""
        return Proportional((plain or linear.part(linear.input, as_they_are, linear.bias),), self.epsilon)

    @property
    def reuses(self) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True)
class Gamma(Rule):
    """LRP-γ: contributions of the output's own sign count 1 + γ times."""

    gamma: float = 0.25

    def share(self, linear: LinearMap, plain: Part | None) -> Share:
        """See `Rule`."""
        with torch.no_grad():
            z = linear.value(linear.input, as_they_are, linear.bias)

        def raised(weight: Tensor) -> Tensor:
            return weight + self.gamma * weight.clamp(min=0)

        def lowered(weight: Tensor) -> Tensor:
            return weight + self.gamma * weight.clamp(max=0)

        bias = linear.bias
        positive = None if bias is None else bias + self.gamma * bias.clamp(min=0)
        negative = None if bias is None else bias + self.gamma * bias.clamp(max=0)
        above = Proportional(tuple(linear.of_signs(raised, lowered, positive)), STABILISER)
        below = Proportional(tuple(linear.of_signs(lowered, raised, negative)), STABILISER)

        def share(relevance: Tensor) -> tuple[Tensor, ...]:
            return (above(relevance * (z > 0))[0] + below(relevance * (z < 0))[0],)

        return share


@dataclass(frozen=True)
class AlphaBeta(Rule):
    """LRP-αβ: α times the share of positive contributions less β times that of negative ones, α − β = 1."""

    alpha: float = 2.0
    beta: float = 1.0
    bias: bool = True

    def share(self, linear: LinearMap, plain: Part | None) -> Share:
        """See `Rule`."""
        positive = Proportional(tuple(linear.same_sign(bias=self.bias)), STABILISER)
        if self.beta == 0:
            return positive if self.alpha == 1 else lambda relevance: (self.alpha * positive(relevance)[0],)
        negative = Proportional(tuple(linear.opposite_sign(bias=self.bias)), STABILISER)
        return lambda relevance: (self.alpha * positive(relevance)[0] - self.beta * negative(relevance)[0],)


@dataclass(frozen=True)
class ZPlus(Rule):
    """z⁺: positive contributions only. The bias, where it is positive, takes its share; deep Taylor leaves it out."""

    bias: bool = True

    def share(self, linear: LinearMap, plain: Part | None) -> Share:
        """See `Rule`."""
        return Proportional(tuple(linear.same_sign(bias=self.bias)), STABILISER)


@dataclass(frozen=True)
class ZBox(Rule):
    """zᴮ: for inputs between bounds `l <= x <= h`: contributions `x w − l w⁺ − h w⁻`; without bias."""

    def share(self, linear: LinearMap, plain: Part | None) -> Share:
        """See `Rule`.

        Raises:
            Unsupported: nothing is known of the bounds of the layer's input.
        """
        if linear.bounds is None:
            raise whylight.Unsupported(
                f"the box rule needs bounds of its input, and layer {linear.layer!r} takes something else than the "
                "model's input",
                field="options.composite",
            )
        low, high = linear.bounds
        parts = (
            linear.part(linear.input, as_they_are, None),
            linear.part(low, _positive, None, sign=-1.0),
            linear.part(high, _negative, None, sign=-1.0),
        )
        return Proportional(parts, STABILISER)


@dataclass(frozen=True)
class WSquare(Rule):
    """w²: in proportion to the squared weights, whatever the input; without bias."""

    def share(self, linear: LinearMap, plain: Part | None) -> Share:
        """See `Rule`."""
        ones = torch.ones_like(linear.input)
        return Proportional((linear.part(ones, torch.square, None, weighed=False),), STABILISER)


@dataclass(frozen=True)
class Flat(Rule):
    """Flat: the same to every input that the output sees; without bias."""

    def share(self, linear: LinearMap, plain: Part | None) -> Share:
        """See `Rule`."""
        ones = torch.ones_like(linear.input)
        return Proportional((linear.part(ones, torch.ones_like, None, weighed=False),), STABILISER)
