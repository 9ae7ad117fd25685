"""Rules that turn an integral from 0 to 1 into a weighted sum; knows nothing of networks."""

from __future__ import annotations

from typing import Literal, NamedTuple

Rule = Literal["gauss-legendre", "riemann-left", "riemann-middle", "riemann-right", "trapezoid"]
DESCRIPTION = (
    "How the path is sampled: 'gauss-legendre' is the most exact for smooth networks; 'riemann-left', '-middle' and "
    "'-right' take equal steps; 'trapezoid' has both ends."
)


class Node(NamedTuple):
    """A place on the path, and the weight of the integrand there."""

    place: float
    weight: float


def nodes(rule: Rule, steps: int) -> list[Node]:
    """Return `steps` >= 2 nodes, in their order on the path; weights sum to 1."""
    if rule == "gauss-legendre":
        import numpy as np

        places, weights = np.polynomial.legendre.leggauss(steps)
        return [Node(float(1 + place) / 2, float(weight) / 2) for place, weight in zip(places, weights, strict=True)]
    if rule == "trapezoid":
        inner = 1 / (steps - 1)
        return [Node(step * inner, inner / 2 if step in (0, steps - 1) else inner) for step in range(steps)]
    shift = {"riemann-left": 0.0, "riemann-middle": 0.5, "riemann-right": 1.0}[rule]
    return [Node((step + shift) / steps, 1 / steps) for step in range(steps)]
