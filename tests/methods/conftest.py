"""Networks that the parity tests share: real architectures with random weights, made once."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def _random(factory, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = factory(weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # as if trained: an untouched one is the identity
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="session")
def resnet18() -> nn.Module:
    """ResNet-18 with random weights."""
    from torchvision.models import resnet18

    return _random(resnet18, 0)


@pytest.fixture(scope="session")
def vgg16() -> nn.Module:
    """VGG-16 with random weights; its ReLUs work in place."""
    from torchvision.models import vgg16

    return _random(vgg16, 0)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Three normalised inputs, 96 high and 128 wide: a wrong order of height and width cannot pass."""
    noise = torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(2))
    return nn.functional.interpolate(noise, (96, 128), mode="bicubic")
