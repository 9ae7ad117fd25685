"""Shapley values by weighted least squares: which coalitions to ask for, the solution; knows no pictures and no model.

Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, theorem 2.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def coalitions(players: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return at most `count` coalitions `[n, players]`, neither the empty nor the full one, and their weights `[n]`.

    Weights are those of the Shapley kernel, `(S − 1) / (C(S, s) s (S − s))` for a coalition of size `s`. If all of them
    are no more than `count`, all are returned, and the solution is exact. Otherwise sizes are taken whole from the
    outside in (1 and S − 1, then 2 and S − 2 …) as long as their share of the kernel's weight would give them enough
    samples, and the rest is drawn by the kernel, each coalition together with its complement.
    """
    device = generator.device
    if 2**players - 2 <= count:
        numbers = torch.arange(1, 2**players - 1, device=device)
        every = (numbers[:, None] >> torch.arange(players, device=device)) & 1
        sizes = every.sum(1).tolist()
        kernel = torch.tensor([_kernel(players, size) for size in sizes], device=device, dtype=torch.float64)
        return every.bool(), kernel
    sizes = list(range(1, players // 2 + 1))
    shares = [_share(players, size) for size in sizes]
    whole: list[Tensor] = []
    weights: list[Tensor] = []
    left = count
    while sizes:
        there = math.comb(players, sizes[0]) * (1 if 2 * sizes[0] == players else 2)
        if there > left * shares[0] / sum(shares) * (1 + 1e-9):
            break
        whole.append(_of_size(players, sizes[0], device))
        weights.append(torch.full((there,), shares[0] / there, device=device, dtype=torch.float64))
        left -= there
        del sizes[0], shares[0]
    pairs = left // 2
    if sizes and pairs:
        drawn = _drawn(players, sizes, shares, pairs, generator)
        whole.append(drawn)
        weights.append(torch.full((2 * pairs,), sum(shares) / (2 * pairs), device=device, dtype=torch.float64))
    return torch.cat(whole), torch.cat(weights)


def solve(shown: Tensor, weights: Tensor, values: Tensor, empty: Tensor, full: Tensor) -> Tensor:
    """Return one number for each player and target, `[T, S]` in float64, whose sum is exactly `full - empty`.

    `shown` `[n, S]` are coalitions, `values` `[n, T]` their values, `empty` and `full` `[T]` those of nobody and of
    all. Minimises `Σ w (v − v(∅) − z·φ)²` among all φ with that sum: with `φ = (full − empty) / S + P ψ`, where `P`
    takes away the mean, this is a plain least-squares problem; of several solutions it is the smallest ψ.
    """
    players = shown.shape[1]
    gains = (full - empty).double()
    equal = gains / players
    features = shown.double()
    away = torch.eye(players, dtype=torch.float64) - 1 / players
    weighted = weights[:, None] * features
    gram = away @ (weighted.T @ features).cpu() @ away
    inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10)
    solved = []
    for column, gain, share in zip(values.double().T, empty.double(), equal, strict=True):
        missing = column.clone() - gain - features.sum(1) * share
        solved.append(share.cpu() + away @ (inverse @ (away @ (weighted.T @ missing).cpu())))
    return torch.stack(solved).to(values.device)


def _kernel(players: int, size: int) -> float:
    return (players - 1) / (math.comb(players, size) * size * (players - size))


def _share(players: int, size: int) -> float:
    """Return the weight of all coalitions of a size and of its complement's."""
    return (players - 1) / (size * (players - size)) * (1 if 2 * size == players else 2)


def _of_size(players: int, size: int, device: torch.device) -> Tensor:
    """Return all coalitions of a size and their complements, those of half the size once."""
    members = torch.tensor(list(itertools.combinations(range(players), size)), device=device)
    shown = torch.zeros(len(members), players, dtype=torch.bool, device=device).scatter_(1, members, True)
    return shown if 2 * size == players else torch.cat((shown, ~shown))


def _drawn(players: int, sizes: list[int], shares: list[float], pairs: int, generator: torch.Generator) -> Tensor:
    """Return random coalitions of some sizes, each beside its complement, `[2 pairs, players]`."""
    device = generator.device
    by_share = torch.tensor(shares, device=device, dtype=torch.float64)
    chosen = torch.multinomial(by_share, pairs, replacement=True, generator=generator)
    size = torch.tensor(sizes, device=device)[chosen]
    order = torch.rand(pairs, players, generator=generator, device=device).argsort(1)
    shown = torch.empty(pairs, players, dtype=torch.bool, device=device)
    shown.scatter_(1, order, torch.arange(players, device=device).expand(pairs, -1) < size[:, None])
    return torch.stack((shown, ~shown), 1).flatten(0, 1)
