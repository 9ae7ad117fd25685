"""Terms that judge what the model makes of an image: scores, excitation, distances of features; know no optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from whylight import ops
from whylight.subject.aim import LATENT, OUTPUT, Aim
from whylight.synthesis.term import Sight, Term, per_image


@dataclass(frozen=True)
class Score(Term):
    """Raises a scalar of the model, one for each image: a class before the softmax, a neuron, a channel's mean.

    `aims` are from ``subject.aim``. Simonyan et al., ICLR workshop 2014, equation 1 without its regulariser.
    """

    name: ClassVar[str] = "score"
    aims: tuple[Aim, ...] = ()

    @property
    def reads_layers(self) -> tuple[str, ...]:
        """Return the layers whose units are meant."""
        return tuple(dict.fromkeys(aim.source for aim in self.aims if aim.source not in (OUTPUT, LATENT)))

    @property
    def reads_output(self) -> bool:
        """Return whether a score of the output is meant."""
        return any(aim.source == OUTPUT for aim in self.aims)

    def loss(self, sight: Sight) -> Tensor:
        """Return minus the score."""
        values = []
        for place, row in enumerate(sight.rows):
            aim = self.aims[row]
            source = sight.output if aim.source == OUTPUT else sight.layers[aim.source]
            assert source is not None
            values.append(-aim.scalar(source[place]))
        return torch.stack(values)


@dataclass(frozen=True)
class LogProbability(Term):
    """Raises the log-probability of a class, one for each image, at the cost of all others: `log softmax(s)_c`."""

    name: ClassVar[str] = "log_probability"
    classes: tuple[int, ...] = ()

    @property
    def reads_output(self) -> bool:
        """Return that it does."""
        return True

    def loss(self, sight: Sight) -> Tensor:
        """Return minus the log-probability."""
        assert sight.output is not None
        wanted = torch.tensor([self.classes[row] for row in sight.rows], device=sight.output.device)
        return F.cross_entropy(sight.output, wanted, reduction="none")


@dataclass(frozen=True)
class Excitation(Term):
    """Raises the mean square of a layer's output, or of one channel: DeepDream (Mordvintsev et al., 2015).

    `channels` has one for each image; None is the whole layer.
    """

    name: ClassVar[str] = "excitation"
    layer: str = ""
    channels: tuple[int | None, ...] = ()

    @property
    def reads_layers(self) -> tuple[str, ...]:
        """Return the layer."""
        return (self.layer,)

    def loss(self, sight: Sight) -> Tensor:
        """Return minus the mean square."""
        found = sight.layers[self.layer]
        chosen = [
            found[place] if self.channels[row] is None else found[place, self.channels[row]]
            for place, row in enumerate(sight.rows)
        ]
        return torch.stack([-(values.square().sum() / values.numel()) for values in chosen])


@dataclass(frozen=True)
class FeatureDistance(Term):
    """Brings a layer's output near to a reference `[B, ...]`: `|Phi - Phi_0|^2 / |Phi_0|^2`.

    Mahendran and Vedaldi, CVPR 2015, equation 4. A `relative` of False leaves the division out (Gatys' content loss
    is half of that).
    """

    name: ClassVar[str] = "features"
    layer: str = ""
    reference: Tensor = field(default_factory=lambda: torch.empty(0))
    relative: bool = True

    @property
    def reads_layers(self) -> tuple[str, ...]:
        """Return the layer."""
        return (self.layer,)

    def loss(self, sight: Sight) -> Tensor:
        """Return the squared distance."""
        reference = self.reference[sight.rows.start : sight.rows.stop]
        distance = per_image((sight.layers[self.layer] - reference).square())
        return distance / per_image(reference.square()).clamp_min(1e-12) if self.relative else distance


@dataclass(frozen=True)
class GramDistance(Term):
    """Brings the Gram matrices of layers near to those of a style: `sum_l w_l |G_l - A_l|^2`, Gatys' scaling.

    `references` are `[B, C, C]` by layer, from `whylight.ops.gram`; `layer_weights` `[B]`, 1 where nothing is said.
    Gatys, Ecker and Bethge, CVPR 2016, equations 4 and 5.
    """

    name: ClassVar[str] = "gram"
    references: Mapping[str, Tensor] = field(default_factory=dict)
    layer_weights: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def reads_layers(self) -> tuple[str, ...]:
        """Return the layers."""
        return tuple(self.references)

    def loss(self, sight: Sight) -> Tensor:
        """Return the weighted sum of the distances."""
        losses = []
        for layer, reference in self.references.items():
            weights = self.layer_weights.get(layer)
            losses.append(gram_distances(sight.layers[layer], reference, sight.rows, weights))
        return torch.stack(losses).sum(0)


def gram_distances(features: Tensor, references: Tensor, rows: range, weights: Tensor | None = None) -> Tensor:
    """Return `whylight.ops.gram_loss` of features `[R, C, ...]` and those of `references` `[B, C, C]` at `rows`, `[R]`.

    One image at a time: with several threads, a product of small matrices has other bits in a batch (MKL).
    """
    losses = []
    for place, row in enumerate(rows):
        share = None if weights is None else weights[row : row + 1]
        losses.append(ops.gram_loss(features[place : place + 1], references[row : row + 1], weights=share))
    return torch.cat(losses)


@dataclass(frozen=True)
class CosineSimilarity(Term):
    """Raises `cos(Phi, d)^p (Phi . d)` of a layer's output and a direction `[B, ...]`: exaggerates what is there.

    With the direction a picture's own features it makes its caricature; `power` 0 is the plain product. Where the
    cosine is below 0.1 it counts as 0.1 (Lucid, `objectives.direction_cossim` and the caricature notebook).
    """

    name: ClassVar[str] = "similarity"
    layer: str = ""
    direction: Tensor = field(default_factory=lambda: torch.empty(0))
    power: float = 1.0

    @property
    def reads_layers(self) -> tuple[str, ...]:
        """Return the layer."""
        return (self.layer,)

    def loss(self, sight: Sight) -> Tensor:
        """Return minus the product."""
        found, wanted = sight.layers[self.layer], self.direction[sight.rows.start : sight.rows.stop]
        product = per_image(found * wanted)
        lengths = per_image(found.square()).sqrt() * per_image(wanted.square()).sqrt()
        cosine = product / lengths.clamp_min(1e-12)
        return -product * cosine.clamp_min(0.1).pow(self.power) / per_image(torch.ones_like(wanted))


@dataclass(frozen=True)
class LogDensity(Term):
    """Raises how likely an image is to somebody who knows images: `log p(x)`, up to a constant.

    `log_density` takes images `[R, C, H, W]`, 0 black and 1 white, and gives `[R]`, differentiable, each by itself.
    """

    name: ClassVar[str] = "log_density"
    of_images: ClassVar[bool] = True
    log_density: Callable[[Tensor], Tensor] = field(default=lambda images: images.new_zeros(len(images)))

    def loss(self, sight: Sight) -> Tensor:
        """Return minus the log-density."""
        return -self.log_density(sight.images)
