"""Tiny networks with fixed weights, one for each way in which networks differ to a method; knows no method.

All take inputs `[N, 3, H, W]` of any size from 16 x 16 on, and give five class scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5

Net = TypeVar("Net", bound=nn.Module)


class ConvGapNet(nn.Module):
    """Convolutions, global average pooling, one linear layer: the net of the CAM paper, with its closed forms."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1, stride=2),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores `[N, 5]`."""
        scores: Tensor = self.head(self.pool(self.features(inputs)).flatten(1))
        return scores


class ReluNet(nn.Module):
    """Convolutions, ReLU in place, max pooling and two linear layers, as VGG; with or without biases."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=bias),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 10, 3, padding=1, bias=bias),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(40, 16, bias=bias), nn.ReLU(inplace=True), nn.Linear(16, CLASSES, bias=bias)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores `[N, 5]`."""
        scores: Tensor = self.classifier(self.pool(self.features(inputs)).flatten(1))
        return scores


class FunctionalReluNet(nn.Module):
    """ReLU as a function, in place, as a tensor's method, as one module used twice; a residual sum, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(16, 12, 3, padding=1, stride=2)
        self.relu = nn.ReLU()
        self.hidden = nn.Linear(12, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores `[N, 5]`."""
        stem = F.relu(self.stem(inputs))
        both = torch.cat([self.relu(self.left(stem)) + stem, self.right(stem).relu_()], 1)
        pooled = F.relu(self.last(both), inplace=True).mean((2, 3))
        scores: Tensor = self.head(self.relu(self.hidden(pooled)))
        return scores


class TupleOutputNet(ConvGapNet):
    """A net that gives a tuple: its scores, and an auxiliary output, as nets trained with a second head do."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the scores `[N, 5]` and the pooled features `[N, 12]`."""
        pooled = self.pool(self.features(inputs)).flatten(1)
        return self.head(pooled), pooled


class TinyViT(nn.Module):
    """A vision transformer: patches of 8 x 8, a class token, two blocks of attention with two heads.

    `fused`: attention by `F.scaled_dot_product_attention`, otherwise by a softmax between two products.
    """

    def __init__(self, *, fused: bool, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.positions = nn.Parameter(torch.randn(1, width, 4, 4) * 0.5)
        self.blocks = nn.ModuleList(_Block(width, fused) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores `[N, 5]`."""
        maps = self.patches(inputs)
        tokens = (maps + F.interpolate(self.positions, maps.shape[2:], mode="bilinear")).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        scores: Tensor = self.head(self.norm(tokens)[:, 0])
        return scores


class _Block(nn.Module):
    """Attention of two heads and a perceptron, each behind a normalisation and beside a skip."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens `[N, T, width]` behind the block."""
        count, length, width = tokens.shape
        query, key, value = self.qkv(self.norm1(tokens)).view(count, length, 3, 2, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            attended = (query @ key.transpose(-2, -1) * (width // 2) ** -0.5).softmax(-1) @ value
        tokens = tokens + self.proj(attended.transpose(1, 2).reshape(count, length, width))
        further: Tensor = tokens + self.mlp(self.norm2(tokens))
        return further


def conv_gap_net(seed: int = 0) -> ConvGapNet:
    """Return a `ConvGapNet` in eval mode."""
    return _seeded(ConvGapNet, seed)


def relu_net(seed: int = 0, *, bias: bool = True) -> ReluNet:
    """Return a `ReluNet` in eval mode."""
    return _seeded(lambda: ReluNet(bias=bias), seed)


def functional_relu_net(seed: int = 0) -> FunctionalReluNet:
    """Return a `FunctionalReluNet` in eval mode."""
    return _seeded(FunctionalReluNet, seed)


def tuple_output_net(seed: int = 0) -> TupleOutputNet:
    """Return a `TupleOutputNet` in eval mode; its model needs ``output="0"``."""
    return _seeded(TupleOutputNet, seed)


def tiny_vit(seed: int = 0, *, fused: bool = True) -> TinyViT:
    """Return a `TinyViT` in eval mode."""
    return _seeded(lambda: TinyViT(fused=fused), seed)


def _seeded(make: Callable[[], Net], seed: int) -> Net:
    """Make a network from `seed` without touching the caller's random numbers, its batch norms as if trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        for module in network.modules():
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()
