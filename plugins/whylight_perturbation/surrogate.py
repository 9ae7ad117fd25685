"""Weighted linear models of scores, by ridge or lasso; knows samples and scores, neither pictures nor models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Kind: TypeAlias = Literal["ridge", "lasso"]
SWEEPS = 10000
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Surrogate:
    """A fitted linear model of each target: coefficients `[T, features]` and weighted R² `[T]`, in float64."""

    coefficients: Tensor
    r2: Tensor


def fit(
    features: Tensor,
    scores: Tensor,
    weights: Tensor,
    kind: Kind,
    regularisation: float,
    check: Callable[[], None] = lambda: None,
) -> Surrogate:
    """Fit `scores` `[n, T]` by linear functions of `features` `[n, S]`, with an intercept that is not regularised.

    Ridge minimises `Σ_i w_i (y_i − ŷ_i)² + α |β|²`, lasso `Σ_i w_i (y_i − ŷ_i)² / (2 Σ w) + α Σ|β|`, as scikit-learn's
    `Ridge` and `Lasso` with sample weights. R² is `1 − Σ w (y − ŷ)² / Σ w (y − ȳ)²`, and 1 where all scores are equal.
    The products are made where the samples are, in float64; the small system is solved on the host. `check` is called
    before each target and, since a lasso can take minutes, before each of its sweeps: it may raise, to give up.
    """
    weights = weights.double()[:, None]
    total = weights.sum()
    centred = features.double() - (weights * features.double()).sum(0) / total
    weighted = weights * centred
    gram = (weighted.T @ centred).cpu()
    coefficients, r2 = [], []
    for values in scores.double().T:
        check()
        values = values.clone()
        left = values - (weights[:, 0] * values).sum() / total
        product = (weighted.T @ left).cpu()
        if kind == "ridge":
            solved = _ridge(gram, product, regularisation).to(scores.device)
        else:
            solved = _lasso(gram, product, total, regularisation, check).to(scores.device)
        spread = (weights[:, 0] * left**2).sum()
        missed = (weights[:, 0] * (left - centred @ solved) ** 2).sum()
        coefficients.append(solved)
        r2.append(torch.where(spread > 0, 1 - missed / spread.clamp(min=1e-300), torch.ones_like(spread)))
    return Surrogate(torch.stack(coefficients), torch.stack(r2))


def _ridge(gram: Tensor, product: Tensor, regularisation: float) -> Tensor:
    """Solve the normal equations; of several solutions, without regularisation, take the smallest."""
    system = gram + regularisation * torch.eye(len(gram), dtype=gram.dtype)
    solved: Tensor = torch.linalg.lstsq(system, product[:, None], driver="gelsd").solution[:, 0]
    return solved


def _lasso(gram: Tensor, product: Tensor, total: Tensor, regularisation: float, check: Callable[[], None]) -> Tensor:
    """Descend along one coefficient after the other until none moves (Friedman et al., 2010)."""
    bound = regularisation * float(total)
    system = gram.numpy()
    left = product.numpy().copy()  # what the coefficients do not yet explain
    diagonal = system.diagonal()
    solved = left * 0.0
    for _ in range(SWEEPS):
        check()
        largest = 0.0
        for place in range(len(solved)):
            if diagonal[place] <= 0:
                continue
            pull = left[place] + diagonal[place] * solved[place]
            wanted = max(abs(pull) - bound, 0.0) / diagonal[place] * (1 if pull > 0 else -1)
            step = wanted - solved[place]
            if step:
                left -= step * system[place]
                solved[place] = wanted
                largest = max(largest, abs(step))
        if largest <= TOLERANCE * max(abs(solved).max(), TOLERANCE):
            break
    return torch.from_numpy(solved)
