"""From a target to numbers of a model's tensors: which elements it adds up; does not know how they are computed.

Every target is a scalar of one tensor: the output, the latents, or a layer's output; most are the sum or the mean of
some of its elements. So its gradient is a backward pass from that tensor, with the scalar's own derivative as
cotangent, and targets of different kinds share a pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.errors import InvalidInput, NotFound, Unsupported
from whylight.subject.likeness import best_overlapping, masked_sum, similarity
from whylight.target import (
    ClassIndex,
    ClassLabel,
    Contrast,
    Detection,
    Latent,
    Neuron,
    Objective,
    OutputIndex,
    Rank,
    Region,
    Similarity,
    Target,
)

if TYPE_CHECKING:
    from whylight.models.model import Model

OUTPUT = ""
LATENT = "\0latent"


@dataclass(frozen=True)
class Share:
    """A part of a dimension, by fractions of its length: how many elements that is, each input decides."""

    low: float
    high: float

    def of(self, length: int) -> slice:
        """Return the elements, at least one."""
        start = min(round(self.low * length), length - 1)
        return slice(start, max(start + 1, round(self.high * length)))


@dataclass(frozen=True)
class Aim:
    """A definite target: the sum, or the mean, of the elements at `index` of the tensor `source`, of one input.

    With `function`, it is that function of the whole of `source` instead. `source` is OUTPUT, LATENT or the name of a
    layer. Inputs need not be of the model's own size, and then such a tensor has another shape than the model tells:
    `index` is brought to it when it is known. `require` is asked about the output of the unaltered input, and raises
    what makes the target meaningless for it.
    """

    target: Target
    label: str
    source: str
    index: tuple[int | Share, ...]
    mean: bool = False
    function: Callable[[Tensor], Tensor] | None = None
    require: Callable[[Tensor], None] | None = None

    @property
    def class_index(self) -> int | None:
        """The class whose score this is, or None if it is something else."""
        first = self.index[0] if self.index else None
        return first if self.source == OUTPUT and len(self.index) == 1 and isinstance(first, int) else None

    def value(self, sample: Tensor) -> float:
        """Return the target's value, from its source without the batch dimension.

        Raises:
            InvalidInput: for an input of this size the source has no such element (reason TARGET_INVALID).
        """
        with torch.no_grad():
            return float(self.scalar(sample))

    def scalar(self, sample: Tensor) -> Tensor:
        """Return the target's value as a tensor, differentiable with respect to its source.

        Raises:
            InvalidInput: as `value`.
        """
        if self.function is not None:
            return self.function(sample)
        elements = sample[self._index_in(sample)]
        return elements.mean() if self.mean else elements.sum()

    def seed(self, cotangent: Tensor, sample: Tensor) -> None:
        """Write the target's derivative into a cotangent of zeros; `sample` is its source, both without the batch.

        Raises:
            InvalidInput: as `value`.
        """
        if self.function is not None:
            with torch.enable_grad():
                leaf = sample.detach().requires_grad_(True)
                cotangent.copy_(torch.autograd.grad(self.function(leaf), leaf)[0])
            return
        index = self._index_in(cotangent)
        cotangent[index] = 1 / cotangent[index].numel() if self.mean else 1.0

    def slope(self, sample: Tensor) -> Tensor:
        """Return the target's derivative at its source, in the shape of `sample`, its source without the batch."""
        slope = torch.zeros_like(sample)
        self.seed(slope, sample)
        return slope

    def _index_in(self, sample: Tensor) -> tuple[int | slice, ...]:
        numbers = [part for part in self.index if isinstance(part, int)]
        if len(numbers) == sample.dim():
            what = "the output" if self.source == OUTPUT else f"the output of layer {self.source!r}"
            _inside(numbers, sample.shape, "the latents" if self.source == LATENT else what)
        return tuple(
            part.of(length) if isinstance(part, Share) else part
            for part, length in zip(self.index, sample.shape, strict=False)
        )


def aim_at(model: Model, target: Target, ranking: Sequence[int] | None = None) -> Aim:
    """Read a target for a model. `ranking` holds the classes, best first, of the input (for `Rank` only).

    Raises:
        InvalidInput: the model's output has no such element (reason TARGET_INVALID).
        NotFound: there is no such label or layer.
        Unsupported: the model has no output of the kind that the target needs (reason TARGET_UNSUPPORTED).
    """
    if isinstance(target, Objective):
        return Aim(target, target.label, OUTPUT, (), function=target.function)
    if isinstance(target, ClassLabel):
        target = ClassIndex(_class_of(model, target.label))
    if isinstance(target, Rank):
        _bounded(target.rank, _class_count(model), "rank")
        target = ClassIndex(target.rank if ranking is None else ranking[target.rank])
    if isinstance(target, ClassIndex):
        _bounded(target.index, _class_count(model), "class")
        return Aim(target, model.label(target.index), OUTPUT, (target.index,))
    if isinstance(target, OutputIndex):
        if not model.output_varies or len(target.indices) != len(model.output_shape):
            _inside(target.indices, model.output_shape, "the output")
        return Aim(target, _label_at(model, target.indices), OUTPUT, target.indices)
    if isinstance(target, Neuron):
        return _neuron(model, target)
    if isinstance(target, Latent):
        if model.latent_shape is None:
            raise Unsupported("the model names no latent variables", reason="TARGET_UNSUPPORTED", field="target")
        _inside((target.index,), model.latent_shape, "the latents")
        return Aim(target, "", LATENT, (target.index,))
    if isinstance(target, Contrast):
        return _contrast(model, target, ranking)
    if isinstance(target, Detection):
        return _detection(model, target)
    if isinstance(target, Similarity):
        return _similarity(model, target)
    return _region(model, target)


def ranks_in(target: Target) -> tuple[int, ...]:
    """Return the ranks that a target names: they are of the unaltered input's predictions."""
    if isinstance(target, Contrast):
        return ranks_in(target.positive) + ranks_in(target.negative)
    return (target.rank,) if isinstance(target, Rank) else ()


def needs_output(target: Target) -> bool:
    """Whether what a target means is known only with the input's output."""
    return isinstance(target, Detection) or bool(ranks_in(target))


def sources_of(aims: Sequence[Aim]) -> tuple[tuple[str, ...], bool]:
    """Return the layers that aims point into, and whether any points at the latents."""
    layers = tuple(dict.fromkeys(aim.source for aim in aims if aim.source not in (OUTPUT, LATENT)))
    return layers, any(aim.source == LATENT for aim in aims)


def _class_count(model: Model) -> int:
    if model.class_count == 0:
        raise Unsupported(
            f"the model's output {list(model.output_shape)} is not a vector of class scores; "
            "point at a region or at an output index",
            reason="TARGET_UNSUPPORTED",
            field="target",
        )
    return model.class_count


def _class_of(model: Model, label: str) -> int:
    _class_count(model)
    folded = [known.casefold() for known in model.labels]
    if label in model.labels:
        return model.labels.index(label)
    if folded.count(label.casefold()) == 1:
        return folded.index(label.casefold())
    close = [model.labels[folded.index(word)] for word in difflib.get_close_matches(label.casefold(), folded, 3)]
    hint = f"; close ones are {', '.join(map(repr, close))}" if close else ""
    hint = hint if model.labels else "; it has no labels"
    raise NotFound(f"the model has no label {label!r}{hint}", reason="LABEL_NOT_FOUND", field="target.label")


def _neuron(model: Model, target: Neuron) -> Aim:
    layer = model.layer(target.layer, field="target.neuron.layer")
    if not layer.output_shape:
        raise Unsupported(
            f"layer {layer.name!r} gives no single tensor", reason="TARGET_UNSUPPORTED", field="target.neuron.layer"
        )
    named = Neuron(layer.name, target.channel, target.position)
    if target.position:
        index = (target.channel, *target.position)
        _inside(index, layer.output_shape, f"the output of layer {layer.name!r}")
        return Aim(named, "", layer.name, index)
    _bounded(target.channel, layer.output_shape[0], "channel")
    return Aim(named, "", layer.name, (target.channel,), mean=True)


def _region(model: Model, target: Region) -> Aim:
    if len(model.output_shape) != 3:
        raise Unsupported(
            f"a region needs a dense output [classes, H, W]; this model's is {list(model.output_shape)}",
            reason="TARGET_UNSUPPORTED",
            field="target",
        )
    _bounded(target.class_index, model.output_shape[0], "class")
    rows, columns = Share(target.top, target.bottom), Share(target.left, target.right)
    label = model.label(target.class_index)
    if target.mask is not None:
        function = masked_sum(target.class_index, target.mask.numpy())
        return Aim(target, label, OUTPUT, (), function=function)
    return Aim(target, label, OUTPUT, (target.class_index, rows, columns))


def _contrast(model: Model, target: Contrast, ranking: Sequence[int] | None) -> Aim:
    positive, negative = (aim_at(model, one, ranking) for one in (target.positive, target.negative))
    label = f"{positive.label} rather than {negative.label}" if positive.label and negative.label else ""

    def difference(sample: Tensor) -> Tensor:
        return positive.scalar(sample) - negative.scalar(sample)

    definite = Contrast(positive.target, negative.target)  # type: ignore[arg-type]  # of the same kinds as before
    return Aim(definite, label, OUTPUT, (), function=difference)


def _detection(model: Model, target: Detection) -> Aim:
    if model.detections is None:
        raise Unsupported(
            f"the model's output {list(model.output_shape)} is not known to be detections; torchvision's detectors "
            "give them, and for others the operator says so with 'boxes'",
            reason="TARGET_UNSUPPORTED",
            field="target",
        )
    listed = model.detections == "listed"
    classes = model.output_shape[1] - 4
    if target.class_index is not None and not listed:
        _bounded(target.class_index, classes, "class")
    box = (target.left, target.top, target.right, target.bottom)
    best, require = best_overlapping(box, target.class_index, listed=listed)
    label = "" if target.class_index is None else model.label(target.class_index)
    return Aim(target, label, OUTPUT, (), function=best, require=require)


def _similarity(model: Model, target: Similarity) -> Aim:
    source, shape = OUTPUT, model.output_shape
    if target.layer:
        layer = model.layer(target.layer, field="target.similarity.layer")
        source, shape = layer.name, layer.output_shape
        if not shape:
            raise Unsupported(
                f"layer {source!r} gives no single tensor", reason="TARGET_UNSUPPORTED", field="target.similarity.layer"
            )
        target = replace(target, layer=source)
    if target.embedding is None:  # of a reference that the model is still to be asked about
        return Aim(target, "", source, ())
    function = similarity(target.embedding.numpy(), shape)
    return Aim(target, "", source, (), function=function)


def _label_at(model: Model, indices: Sequence[int]) -> str:
    """Return the label of an element of the output: of its class, or of its word where the output is `[T, words]`."""
    if model.class_count:
        return model.label(indices[0])
    words = len(model.output_shape) == 2 and model.detections is None and model.output_shape[1] == len(model.labels)
    return model.label(indices[1]) if words else ""


def _bounded(index: int, count: int, what: str) -> None:
    if not 0 <= index < count:
        raise InvalidInput(
            f"{what} {index} is out of range; there are {count}, from 0 to {count - 1}",
            reason="TARGET_INVALID",
            field="target",
        )


def _inside(index: Sequence[int], shape: Sequence[int], what: str) -> None:
    if len(index) != len(shape) or not all(0 <= one < size for one, size in zip(index, shape, strict=True)):
        raise InvalidInput(
            f"index {list(index)} is not in {what}, whose shape is {list(shape)}",
            reason="TARGET_INVALID",
            field="target",
        )
