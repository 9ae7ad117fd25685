"""Convolutional variational autoencoders: the encoder, the decoder, both; know no training and no picture file.

`VAE_128` is the one of Kolvekar, Interpretation of Activation Maps in Generative Modelling (2021), after Liu et al.,
Towards Visually Explaining Variational Autoencoders (CVPR 2020): four convolutions of stride 2 with 32, 64, 64 and 64
channels and LeakyReLU, 200 latents, and their mirror image; 1,732,048 and 916,483 parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SLOPE = 0.3
"""Of LeakyReLU below 0: the default of Keras, in which the model was first written."""


@dataclass(frozen=True)
class Architecture:
    """What tells two such autoencoders apart. `size` is of both sides; each convolution halves it."""

    size: int
    channels: int
    widths: tuple[int, ...]
    latents: int

    @property
    def inner(self) -> tuple[int, int, int]:
        """Return the shape (C, h, w) of the last maps of the encoder."""
        side = self.size >> len(self.widths)
        return self.widths[-1], side, side


VAE_128 = Architecture(128, 3, (32, 64, 64, 64), 200)
VAE_32 = Architecture(32, 1, (16, 32, 32), 16)


class Encoder(nn.Module):
    """Pictures `[N, C, H, W]` in 0..1 to the means and log-variances `[N, L]` of their codes."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = architecture.channels
        for width in architecture.widths:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
            before = width
        channels, height, width = architecture.inner
        self.features = nn.Sequential(*layers)
        self.mean = nn.Linear(channels * height * width, architecture.latents)
        self.log_variance = nn.Linear(channels * height * width, architecture.latents)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and the log-variances."""
        flat = self.features(pictures).flatten(1)
        return self.mean(flat), self.log_variance(flat)


class Decoder(nn.Module):
    """Codes `[N, L]` or `[N, L, 1, 1]` to pictures `[N, C, H, W]` in 0..1."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        channels, height, width = architecture.inner
        self.dense = nn.Linear(architecture.latents, channels * height * width)
        self.unflatten = nn.Unflatten(1, architecture.inner)
        layers: list[nn.Module] = []
        before = channels
        for width in reversed(architecture.widths[:-1]):
            layers += [_doubling(before, width), nn.LeakyReLU(SLOPE)]
            before = width
        self.layers = nn.Sequential(*layers, _doubling(before, architecture.channels))

    def forward(self, codes: Tensor) -> Tensor:
        """Return the pictures."""
        return torch.sigmoid(self.layers(self.unflatten(self.dense(codes.flatten(1)))))


class VariationalAutoencoder(nn.Module):
    """Pictures to the pictures of their mean codes; in training, of codes drawn around them."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.encoder = Encoder(architecture)
        self.decoder = Decoder(architecture)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return "reconstruction" `[N, C, H, W]`, "mean" and "log_variance" `[N, L]`."""
        mean, log_variance = self.encoder(pictures)
        noise = torch.randn_like(mean) * torch.exp(log_variance / 2) if self.training else 0
        return {"reconstruction": self.decoder(mean + noise), "mean": mean, "log_variance": log_variance}


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q(z|x) || N(0, 1)) of each latent, `[N, L]` in nats (Kingma and Welling, ICLR 2014, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


def _doubling(before: int, after: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
