"""Metrics by themselves: a module, inputs and maps in, numbers out, in float64; and models whose best map is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import whylight
from whylight.method import Batch
from whylight.models import Model, Transform, wrap_module
from whylight.options import parse_options
from whylight.subject import CancelToken
from whylight.target import Target, as_target

Measure = Callable[..., whylight.Measured]


def batch_of(inputs: Tensor, targets: Sequence[Target | int], seeds: Sequence[int] | None = None) -> Batch:
    rows = tuple(range(len(inputs)))
    return Batch(inputs, tuple(map(as_target, targets)), rows, CancelToken(), tuple(seeds or rows))


def no_explanation(batch: Batch, subject: whylight.Subject | None = None) -> Tensor:
    raise AssertionError("this metric does not explain again")


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Measure maps with a metric, as a server would."""

    def run(
        metric: type[whylight.Metric],
        model: Model,
        inputs: Tensor,
        maps: Tensor,
        targets: Sequence[Target | int],
        options: Mapping[str, Any] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        explain: whylight.Explain = no_explanation,
    ) -> whylight.Measured:
        batch = batch_of(inputs, targets, seeds)
        settings = parse_options(metric.Options, options or {})
        return metric().measure(model.subject(batch.cancel), batch, maps, explain, settings)

    return run


class Sums(nn.Module):
    """Two scores: the sum of the weighted pixels, and 0. Its perfect map is the weights times the input."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, inputs: Tensor) -> Tensor:
        value = (inputs[:, 0] * self.weights).sum((1, 2))
        return torch.stack((value, torch.zeros_like(value)), 1)


@pytest.fixture(scope="session")
def sums() -> Callable[[Tensor], Model]:
    """Return `Sums` of weights `[H, W]` as a model, in float64, whose inputs are what they are."""

    def make(weights: Tensor) -> Model:
        height, width = weights.shape
        return wrap_module(Sums(weights).double(), transform=Transform.plain((height, width), 1))

    return make
