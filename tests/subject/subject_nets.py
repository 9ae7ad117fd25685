"""Small networks that end, act in place and answer in all the ways that real ones do; know nothing of whylight."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded(build, seed: int = 0) -> nn.Module:
    """Build a network with the same weights each time, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().double().eval()


class Pooled(nn.Module):
    """Two convolutions, average pooling, one linear layer: CAM's network."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.two = nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.two(self.act(self.one(x))))
        return self.classifier(self.dropout(self.pool(x).flatten(1)))


class ReluAfterPool(Pooled):
    """As Pooled, but not linear behind the maps: it must not be taken for CAM's network."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.two(self.act(self.one(x))))
        return self.classifier(F.relu(self.pool(x).flatten(1)))


class InPlace(nn.Module):
    """Functional and residual operations in place, right behind every layer, and a head with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.three = nn.Conv2d(4, 4, 3, padding=1)
        self.hidden = nn.Linear(4 * 16, 12)
        self.classifier = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x), inplace=True)
        y = self.two(x)
        y += x
        y = F.relu(y, inplace=True)
        y = self.three(y).relu_()
        y = F.adaptive_max_pool2d(y, 4).flatten(1)
        return self.classifier(torch.tanh(self.hidden(y)))


@dataclasses.dataclass
class Answer:
    logits: Tensor
    hidden: Tensor


class Wrapping(nn.Module):
    """Gives the answer of Pooled, wrapped as asked, with a second tensor beside it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net = Pooled()
        self.kind = kind

    def forward(self, x: Tensor):
        logits = self.net(x)
        hidden = x.mean((2, 3)) * 2
        return {
            "tuple": (logits, hidden),
            "dict": {"logits": logits, "hidden": hidden},
            "nested": {"heads": [logits, hidden]},
            "dataclass": Answer(logits, hidden),
        }[self.kind]


class Dense(nn.Module):
    """Scores for every position: [N, 3, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))
