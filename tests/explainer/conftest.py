"""Small models and methods whose answers are known by construction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import whylight
from whylight.explainer import Explainer
from whylight.models import Model, Transform, wrap_module
from whylight.plugins import OfferedMethod
from whylight.subject import CancelToken

TRANSFORM = Transform(resize=40, crop=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
"""Of a picture 90 x 60, what is left is the box (21, 6, 69, 54)."""


class Looking(nn.Module):
    """Class 0 is the brightness of the upper left quarter, class 1 of the lower right, class 2 of everything."""

    def __init__(self) -> None:
        super().__init__()
        masks = torch.zeros(3, 8, 8)
        masks[0, :4, :4] = 1
        masks[1, 4:, 4:] = 1
        masks[2] = 1
        self.register_buffer("masks", masks)
        self.shrink = nn.AvgPool2d(4)
        self.maps = nn.Conv2d(3, 3, 1, bias=False)
        self.maps.weight.data.fill_(1 / 3)
        self.masked = nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data.copy_(torch.eye(3))

    def forward(self, x):
        return self.head(self.pool(self.masked(self.maps(self.shrink(x)) * self.masks)).flatten(1))


class Input(whylight.Attribution):
    """The sum over the input's channels."""

    name = "input-sum"

    def attribute(self, subject, batch, options):
        return batch.inputs.sum(1)[list(batch.rows)]


@pytest.fixture(scope="session")
def model() -> Model:
    return wrap_module(Looking(), name="looking", transform=TRANSFORM, labels=("upper left", "lower right", "all"))


@pytest.fixture(scope="session")
def cam() -> dict[str, OfferedMethod]:
    from whylight_cam import GradCAM

    return {"grad-cam": OfferedMethod(GradCAM(), "cam", "whylight 0")}


@pytest.fixture
def explainer_of(model):
    """Make an explainer of one method, which may be the test's own."""

    def make(method: whylight.Method, served: Model = model, **options) -> Explainer:
        return Explainer({served.name: served}, {method.name: OfferedMethod(method, "test", "test 1")}, **options)

    return make


@pytest.fixture
def explain_all():
    """Run everything that an explainer does for a list of inputs."""

    def run(explainer, plan, inputs, targets=None, seeds=None, cancels=None):
        decoded = [explainer.decode(plan, data) for data in inputs]
        targets = [()] * len(inputs) if targets is None else targets
        seeds = range(len(inputs)) if seeds is None else seeds
        seeds = [seed if isinstance(seed, tuple) else (seed,) * len(plan.methods) for seed in seeds]
        cancels = [CancelToken() for _ in inputs] if cancels is None else cancels
        return explainer.explain(plan, decoded, targets, seeds, cancels)

    return run
