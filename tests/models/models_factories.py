"""Networks that tests open by name, as an operator's own package would offer them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Two convolutions with normalisation, pooling, and a head with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(8 * 16, 6)
        self.classifier = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = nn.functional.adaptive_max_pool2d(x, 4).flatten(1)
        return self.classifier(torch.tanh(self.hidden(x)))


class Shares(Tiny):
    """The output of a convolution is used beside its normalisation: they cannot become one."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.relu(self.bn1(x)) + x
        x = self.relu(self.bn2(self.conv2(x)))
        x = nn.functional.adaptive_max_pool2d(x, 4).flatten(1)
        return self.classifier(torch.tanh(self.hidden(x)))


def tiny() -> nn.Module:
    """Make a Tiny."""
    return Tiny()
