"""Every attribution method that our plugins offer, with options that make a run cheap, and one network for all of them.

Methods are found, not listed: a new one is in every test that goes through them, with its default options unless
`CHEAP` has others.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whylight.method import Attribution, Need
from whylight.models import OpenedModel, Transform
from whylight.plugins import Plugins

SIZE = (32, 48)
LABELS = ("ant", "bee", "cat", "dog", "elk")

CHEAP = {
    "expected-gradients": {"samples": 3},
    "gradient-shap": {"samples": 3},
    "integrated-gradients": {"steps": 4},
    "kernel-shap": {"samples": 24, "segments": 6, "segmentation": "grid"},
    "lime": {"samples": 24, "segments": 6, "segmentation": "grid"},
    "occlusion": {"window": 16, "stride": 8},
    "rise": {"masks": 24, "grid": 4},
    "smoothgrad": {"samples": 3},
    "vargrad": {"samples": 3},
}


@functools.cache
def every_method() -> dict[str, Attribution]:
    """Return the attribution methods of our plugins, by name, but for those of latents, which a classifier has not."""
    plugins = Plugins(strict=True)
    plugins.load()
    ours = {name: offered for name, offered in plugins.methods.items() if offered.distribution.startswith("whylight ")}
    methods = {name: offered.method for name, offered in ours.items() if isinstance(offered.method, Attribution)}
    return {name: method for name, method in methods.items() if Need.LATENTS not in method.needs}


class AttentiveNet(nn.Module):
    """Has what any method asks of a network: ReLU, maps, attention between places, average pooling before one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.last = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(12, len(LABELS))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores `[N, 5]`."""
        maps = self.stem(inputs)
        count, channels, height, width = maps.shape
        tokens = maps.flatten(2).transpose(1, 2)
        parts = self.qkv(self.norm(tokens)).view(count, height * width, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*parts)
        tokens = tokens + self.proj(attended.transpose(1, 2).reshape(count, height * width, channels))
        maps = self.last(tokens.transpose(1, 2).reshape(count, channels, height, width))
        return self.head(self.pool(maps).flatten(1))


def attentive_net() -> AttentiveNet:
    """Return the network in eval mode, always the same; inputs differ enough in its answers to tell them apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = AttentiveNet()
        with torch.no_grad():
            net.stem[1].running_mean.normal_(0, 0.2)
            net.stem[1].running_var.uniform_(0.5, 1.5)
            net.head.weight.mul_(4)
    return net.eval()


def opened(module: nn.Module) -> OpenedModel:
    return OpenedModel(module, Transform.plain(SIZE), LABELS)


# What a server is told to open, as python:every_method:NAME.


def trainable() -> OpenedModel:
    net = attentive_net()
    assert all(parameter.requires_grad for parameter in net.parameters())
    return opened(net)


def frozen() -> OpenedModel:
    return opened(attentive_net().requires_grad_(False))


def half() -> OpenedModel:
    """The network in bfloat16, parameters and all."""
    return opened(attentive_net().bfloat16())


def compiled() -> OpenedModel:
    """The network, and in the process that opens it a compiler that captures graphs but makes no code of them."""
    torch.compile = functools.partial(torch.compile, backend="eager")
    return opened(attentive_net())


def convolutional() -> OpenedModel:
    from whylight.testing import relu_net

    return opened(relu_net())


def transformer() -> OpenedModel:
    from whylight.testing import tiny_vit

    return opened(tiny_vit())
