"""EfficientNet-lite0 as TensorFlow's checkpoint wants it, padding included; knows nothing of weights and labels.

Tan & Le, EfficientNet, ICML 2019; the lite variants (tensorflow/tpu, models/official/efficientnet/lite) have ReLU6, no
squeeze-and-excitation, and a stem and a head of fixed width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# kernel, stride, expansion, channels, repeats
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class SamePadding(nn.Module):
    """Pads so that a stride of `stride` gives ceil(size / stride), the odd pixel at the right and the bottom."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Pad `[N, C, H, W]` with zeros."""
        top, bottom = self._amounts(x.shape[2])
        left, right = self._amounts(x.shape[3])
        return F.pad(x, (left, right, top, bottom))

    def _amounts(self, size: int) -> tuple[int, int]:
        total = max(0, (-(-size // self.stride) - 1) * self.stride + self.kernel - size)
        return total // 2, total - total // 2


class ConvBlock(nn.Sequential):
    """Padding if strided, convolution, normalisation, and ReLU6 if `active`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        if stride > 1:
            self.pad = SamePadding(kernel, stride)
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        if active:
            self.act = nn.ReLU6()


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel, narrow; add the input where the shape allows."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvBlock(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvBlock(wide, wide, kernel, stride, groups=wide)
        self.project = ConvBlock(wide, outputs, 1, active=False)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, outputs, ceil(H / stride), ceil(W / stride)]`."""
        narrow: Tensor = self.project(self.depthwise(self.expand(x)))
        return narrow + x if self.skips else narrow


class EfficientNetLite0(nn.Module):
    """4.65 million parameters; `[N, 3, H, W]`, RGB as (x - 127) / 128, to `[N, 1000]`."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvBlock(3, 32, 3, 2)
        self.blocks = nn.Sequential()
        inputs = 32
        for kernel, stride, expansion, outputs, repeats in _STAGES:
            for repeat in range(repeats):
                first = repeat == 0
                self.blocks.append(InvertedResidual(inputs, outputs, kernel, stride if first else 1, expansion))
                inputs = outputs
        self.head = ConvBlock(inputs, 1280, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        scores: Tensor = self.classifier(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))
        return scores
