"""Models of digits that the tests of code spaces and of experts share, trained once in seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import nn

from whylight.models import Transform, wrap_module

SIDE, CODE = 8, 8
GREY = Transform.plain((SIDE, SIDE), 1)


class Decoder(nn.Module):
    """Digits of codes `[N, 8, 1, 1]`, 0 black and 1 white."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(CODE, 128), nn.ReLU(), nn.Linear(128, SIDE * SIDE))

    def logits(self, codes):
        return self.layers(codes.flatten(1))

    def forward(self, codes):
        return torch.sigmoid(self.logits(codes)).view(-1, 1, SIDE, SIDE)


class Restricted(nn.Module):
    """A restricted Boltzmann machine, as a density: minus its free energy, `[N, 1]`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(SIDE * SIDE, 64))
        self.visible = nn.Parameter(torch.zeros(SIDE * SIDE))
        self.hidden = nn.Parameter(torch.zeros(64))

    def forward(self, pictures):
        seen = pictures.flatten(1)
        return (seen @ self.visible + F.softplus(F.linear(seen, self.weight.mT, self.hidden)).sum(1))[:, None]


def trained(module, loss, examples, *, rounds, rate):
    optimiser = torch.optim.Adam(module.parameters(), rate)
    for _ in range(rounds):
        for chosen in torch.randperm(len(examples)).split(128):
            optimiser.zero_grad()
            loss(chosen).backward()
            optimiser.step()
    return module.eval()


@pytest.fixture(scope="session")
def digits():
    found = load_digits()
    return torch.tensor(found.images / 16, dtype=torch.float32)[:, None], torch.tensor(found.target)


@pytest.fixture(scope="session")
def reader(digits):
    """A classifier of another family, which no gradient has seen: it says what a picture shows to someone else."""
    pictures, classes = digits
    machine = SVC(gamma=0.05).fit(pictures.flatten(1).numpy(), classes.numpy())

    def read(images):
        return torch.from_numpy(np.asarray(machine.predict(images.flatten(1).numpy())))

    return read


@pytest.fixture(scope="session")
def classifier(digits):
    pictures, classes = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        trained(net, lambda rows: F.cross_entropy(net(pictures[rows]), classes[rows]), pictures, rounds=10, rate=3e-3)
    return wrap_module(net, name="digits", transform=GREY, input_size=(SIDE, SIDE))


@pytest.fixture(scope="session")
def generator(digits):
    """The decoder of a variational autoencoder."""
    pictures, _ = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, decoder = (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * CODE)),
            Decoder(),
        )

        def loss(rows):
            mean, spread = encoder(pictures[rows]).chunk(2, 1)
            logits = decoder.logits(mean + torch.randn_like(mean) * (spread / 2).exp())
            wrong = F.binary_cross_entropy_with_logits(logits, pictures[rows].flatten(1), reduction="sum")
            return (wrong + 0.5 * (mean.square() + spread.exp() - spread - 1).sum()) / len(rows)

        trained(nn.ModuleList([encoder, decoder]), loss, pictures, rounds=60, rate=3e-3)
    return wrap_module(
        decoder, name="digit-generator", transform=Transform.plain((1, 1), CODE), input_size=(1, 1), channels_last=False
    )


@pytest.fixture(scope="session")
def expert(digits):
    pictures, _ = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        machine = Restricted()

        def loss(rows):
            seen = torch.bernoulli(pictures[rows])
            with torch.no_grad():  # one step of contrastive divergence
                hidden = torch.bernoulli(torch.sigmoid(seen.flatten(1) @ machine.weight + machine.hidden))
                dreamt = torch.bernoulli(torch.sigmoid(hidden @ machine.weight.mT + machine.visible))
            return (machine(dreamt) - machine(seen)).mean()

        trained(machine, loss, pictures, rounds=30, rate=5e-3)
    return wrap_module(machine, name="digit-density", transform=GREY, input_size=(SIDE, SIDE))
