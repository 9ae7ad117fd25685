"""Small models of scikit-learn's digits, trained in seconds or minutes, for galleries; draws nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from whylight.models import Model, Transform, wrap_module

SIDE = 8
GREY = Transform.plain((SIDE, SIDE), 1)
BOARD = 32
"""Side of a picture with two digits, each of 16 pixels."""


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


def pairs(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return pictures `[N, 1, 32, 32]` of two different digits, one left and one right, and which they are `[N, 2]`."""
    pictures, classes = digits()
    boards, named = torch.zeros(count, 1, BOARD, BOARD), torch.zeros(count, 2, dtype=torch.int64)
    for board, names in zip(boards, named, strict=True):
        for half, digit in enumerate(torch.randperm(10, generator=source)[:2].tolist()):
            rows = (classes == digit).nonzero()[:, 0]
            row = rows[torch.randint(len(rows), (1,), generator=source)]
            top = 4 * int(torch.randint(5, (1,), generator=source))
            left = half * BOARD // 2
            board[:, top : top + 16, left : left + 16] = F.interpolate(pictures[row], scale_factor=2)[0]
            names[half] = digit
    return boards, named


@cache
def pair_reader() -> Model:
    """Return a vision transformer that says which digits are on a picture of two; some minutes."""
    torch.manual_seed(0)
    net = VisionTransformer(
        img_size=BOARD, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2
    )
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    source = torch.Generator().manual_seed(0)
    for step in range(PAIR_STEPS):
        boards, named = pairs(64, source)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 100) * (1 - step / PAIR_STEPS)
        optimiser.zero_grad()
        wanted = torch.zeros(64, 10).scatter_(1, named, 1.0)
        F.binary_cross_entropy_with_logits(net(boards), wanted).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    preparation = Transform.plain((BOARD, BOARD), 1)
    return wrap_module(net.eval(), name="pairs", transform=preparation, input_size=(BOARD, BOARD))


PAIR_STEPS = 1200


def _train(module: nn.Module, loss: Callable[[Tensor], Tensor], *, rounds: int, rate: float) -> None:
    optimiser = torch.optim.Adam(module.parameters(), rate)
    for _ in range(rounds):
        for chosen in torch.randperm(len(digits()[0])).split(128):
            optimiser.zero_grad()
            loss(chosen).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    module.eval()
