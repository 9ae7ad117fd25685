"""A classifier of scikit-learn's digits, trained in seconds, and a density of them, for galleries; draws nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from whylight.models import Model, Transform, wrap_module

SIDE = 8
GREY = Transform.plain((SIDE, SIDE), 1)


class Parzen(nn.Module):
    """The log of a density of pictures `[N, 1, 8, 8]`, up to a constant, `[N, 1]`: a bell around each example."""

    def __init__(self, examples: Tensor, width: float) -> None:
        super().__init__()
        self.register_buffer("examples", examples.flatten(1))
        self._width = width

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the log-density of each picture."""
        distances = (pictures.flatten(1)[:, None] - self.get_buffer("examples")).square().sum(2)
        return (-distances / (2 * self._width**2)).logsumexp(1, keepdim=True)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return the pictures `[N, 1, 8, 8]`, 0 black and 1 white, and what they show."""
    found = load_digits()
    return torch.tensor(found.images / 16, dtype=torch.float32)[:, None], torch.tensor(found.target)


@cache
def classifier() -> Model:
    """Return a small convolutional network that knows the digits."""
    torch.manual_seed(0)
    pictures, classes = digits()
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))
    _train(net, lambda rows: F.cross_entropy(net(pictures[rows]), classes[rows]), rounds=10, rate=3e-3)
    return wrap_module(net, name="digits", transform=GREY, input_size=(SIDE, SIDE))


@cache
def density() -> Model:
    """Return an expert for digits (Parzen, On Estimation of a Probability Density Function and Mode, 1962)."""
    return wrap_module(Parzen(digits()[0], 0.3), name="density", transform=GREY, input_size=(SIDE, SIDE))


def _train(module: nn.Module, loss: Callable[[Tensor], Tensor], *, rounds: int, rate: float) -> None:
    optimiser = torch.optim.Adam(module.parameters(), rate)
    for _ in range(rounds):
        for chosen in torch.randperm(len(digits()[0])).split(128):
            optimiser.zero_grad()
            loss(chosen).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    module.eval()
