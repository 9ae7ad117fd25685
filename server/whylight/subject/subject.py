"""A model as methods see it: run it, capture layers, ask for gradients; knows no method and no request.

Nothing here changes the model. Everything runs in chunks that stay under the model's memory budget, and asks between
chunks whether the work is still wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.errors import Unsupported
from whylight.subject.aim import LATENT, OUTPUT, Aim, aim_at
from whylight.subject.cancel import CancelToken
from whylight.subject.gap_head import GapHead
from whylight.target import Rank, ResolvedTarget

if TYPE_CHECKING:
    from whylight.method import Batch
    from whylight.models.model import Model

INPUT = None
"""In place of a layer: gradients are taken at the input."""


@dataclass
class _Known:
    """What was found out about one tensor of inputs, by source: OUTPUT, LATENT or a layer."""

    inputs: Tensor
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Subject:
    """A model, for one batch. Cheap to make, never shared between threads; many may run on one model at once.

    `cancel` is asked by `forward`; the calls that take a batch ask the batch's token.
    """

    def __init__(self, model: Model, cancel: CancelToken | None = None) -> None:
        self.model = model
        self.device = model.device
        self._cancel = cancel or CancelToken()
        self._known: _Known | None = None

    def outputs(self, batch: Batch) -> Tensor:
        """Return the model's selected output for the inputs of the batch, `[N, ...]`, without a graph.

        Remembered: after another call on the same batch it costs nothing.
        """
        known = self._about(batch)
        if OUTPUT not in known.tensors:
            self._capture(batch, (), latents=False)
        return known.tensors[OUTPUT]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the selected output for any inputs `[R, C, H, W]`, without a graph."""
        pieces = []
        for rows in self._chunks(len(inputs), self.model.max_rows(), self._cancel):
            with torch.no_grad():
                pieces.append(self.model.run(inputs[rows]).output)
        return _joined(pieces)

    def activations(self, batch: Batch, *layers: str) -> dict[str, Tensor]:
        """Return the outputs of `layers` `[N, ...]`, by the names that were given, without a graph.

        Raises:
            NotFound: there is no such layer (reason LAYER_NOT_FOUND).
            Unsupported: the layer does not run, or gives no single tensor.
        """
        names = {layer: self.resolve_layer(layer) for layer in layers}
        self._capture(batch, tuple(dict.fromkeys(names.values())), latents=False)
        found = self._about(batch).tensors
        return {layer: found[name] for layer, name in names.items()}

    def layer_gradients(self, batch: Batch, layer: str) -> tuple[Tensor, Tensor]:
        """Return a layer's activations `[N, C, h, w]` and the gradient of each target there, `[M, C, h, w]`.

        The model runs once, without a graph up to the layer, and backward only from the targets to the layer. Behind a
        head of average pooling and one linear layer (`gap_head`), class targets need no backward at all: the gradients
        are then expanded, with spatial strides of 0.

        Raises:
            NotFound: there is no such layer (reason LAYER_NOT_FOUND).
            Unsupported: the layer gives no single tensor, or a target does not depend on it.
        """
        name = self.resolve_layer(layer)
        head = self.gap_head(name)
        aims = [aim_at(self.model, target) for target in batch.targets]
        if head is not None and all(aim.class_index is not None for aim in aims):
            activations = self.activations(batch, name)[name]
            classes = [aim.class_index for aim in self._aims(batch)]
            indices = torch.tensor(classes, device=self.device)
            return activations, head.gradients(indices, (activations.shape[2], activations.shape[3]))
        return self._gradients(batch, name)

    def input_gradients(self, batch: Batch) -> Tensor:
        """Return the gradient of each target at its input, `[M, C, H, W]`."""
        return self._gradients(batch, INPUT)[1]

    def gap_head(self, layer: str | None = None) -> GapHead | None:
        """Return the closed form of the head, if the model ends so; with `layer`, only if it begins right behind it."""
        head = self.model.head
        if head is None or layer is None:
            return head
        return head if self.model.same_output(self.resolve_layer(layer), head.layer) else None

    def resolve(self, batch: Batch) -> tuple[ResolvedTarget, ...]:
        """Return what each target of the batch turned out to be, with its value; asks the model only if it must."""
        aims = self._aims(batch)
        known = self._about(batch)
        layers = tuple(dict.fromkeys(a.source for a in aims if a.source not in known.tensors))
        if layers:
            self._capture(batch, tuple(n for n in layers if n not in (OUTPUT, LATENT)), latents=LATENT in layers)
        # Once to the host: each value by itself would wait for the device.
        near = {source: known.tensors[source].cpu() for source in {aim.source for aim in aims}}
        return tuple(
            ResolvedTarget(aim.target, aim.label, aim.value(near[aim.source][row]))
            for aim, row in zip(aims, batch.rows, strict=True)
        )

    def resolve_layer(self, name: str) -> str:
        """Return the layer that `name` means; "last-spatial" is the model's last layer with maps.

        Raises:
            NotFound: there is no such layer; the message has close matches.
            Unsupported: "last-spatial", of a model that has none.
        """
        return self.model.layer(name).name

    def _about(self, batch: Batch) -> _Known:
        if self._known is None or self._known.inputs is not batch.inputs:
            self._known = _Known(batch.inputs)
        return self._known

    def _chunks(self, count: int, size: int, cancel: CancelToken) -> Iterator[slice]:
        for start in range(0, count, size):
            cancel.check()
            yield slice(start, min(start + size, count))

    def _capture(self, batch: Batch, layers: tuple[str, ...], *, latents: bool) -> None:
        """Run without a graph; keep outputs of layers, the output, and the latents if asked for."""
        pieces: dict[str, list[Tensor]] = {}
        for rows in self._chunks(len(batch.inputs), self.model.max_rows(), batch.cancel):
            with torch.no_grad():
                ran = self.model.run(batch.inputs[rows], watch=layers, latents=latents)
            _append(pieces, ran.sources())
        self._about(batch).tensors.update({source: _joined(parts) for source, parts in pieces.items()})

    def _aims(self, batch: Batch) -> list[Aim]:
        """Make the targets definite; ranks need the output."""
        needs_output = any(isinstance(target, Rank) for target in batch.targets)
        return self._aims_of(batch, range(len(batch.targets)), self.outputs(batch) if needs_output else None, 0)

    def _aims_of(self, batch: Batch, targets: Iterable[int], output: Tensor | None, first_row: int) -> list[Aim]:
        """Make some targets definite; `output` is that of the inputs from `first_row` on, if any of them is a rank."""
        chosen = list(targets)
        ranks = [wanted.rank for wanted in (batch.targets[target] for target in chosen) if isinstance(wanted, Rank)]
        rankings: list[list[int]] = []
        if ranks and output is not None:
            aim_at(self.model, Rank(max(ranks)))
            rankings = output.argsort(dim=1, descending=True, stable=True)[:, : max(ranks) + 1].tolist()
        return [
            aim_at(self.model, batch.targets[target], rankings[batch.rows[target] - first_row] if rankings else None)
            for target in chosen
        ]

    def _gradients(self, batch: Batch, layer: str | None) -> tuple[Tensor, Tensor]:
        activations: list[Tensor] = []
        gradients: list[Tensor] = []
        pieces: dict[str, list[Tensor]] = {}
        checked = [aim_at(self.model, target) for target in batch.targets]
        neurons = tuple(dict.fromkeys(aim.source for aim in checked if aim.source not in (OUTPUT, LATENT)))
        latents = any(aim.source == LATENT for aim in checked)
        for rows in self._chunks(len(batch.inputs), self.model.max_rows(gradients_at=layer or ""), batch.cancel):
            inputs = batch.inputs[rows]
            with torch.enable_grad():
                if layer is INPUT:
                    inputs = inputs.detach().clone().requires_grad_(True)
                ran = self.model.run(inputs, split=layer, watch=neurons, latents=latents)
                leaf = inputs if ran.leaf is None else ran.leaf
                sources = ran.sources()
                targets = [m for m, row in enumerate(batch.rows) if rows.start <= row < rows.stop]
                aims = self._aims_of(batch, targets, sources[OUTPUT].detach(), rows.start)
                aimed = [(aim, batch.rows[m] - rows.start) for aim, m in zip(aims, targets, strict=True)]
                gradients.append(_pull_back(leaf, sources, aimed, batch.cancel))
            activations.append(leaf.detach())
            _append(pieces, {source: tensor.detach() for source, tensor in sources.items()})
        self._about(batch).tensors.update({source: _joined(parts) for source, parts in pieces.items()})
        return _joined(activations), _joined(gradients)


def _pull_back(leaf: Tensor, sources: dict[str, Tensor], aimed: list[tuple[Aim, int]], cancel: CancelToken) -> Tensor:
    """Return the gradient of each aim at its row of the leaf, `[M, ...]`.

    Rows do not influence one another, so one backward pass serves one target of every row; there are as many passes as
    the row with the most targets has.
    """
    rounds: list[list[int]] = []
    taken: dict[int, int] = {}
    for number, (_, row) in enumerate(aimed):
        turn = taken[row] = taken.get(row, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(number)
    result = leaf.new_empty((len(aimed), *leaf.shape[1:]))
    for turn, numbers in enumerate(rounds):
        cancel.check()
        cotangents: dict[str, Tensor] = {}
        for number in numbers:
            aim, row = aimed[number]
            _require_dependence(sources[aim.source])
            if aim.source not in cotangents:
                cotangents[aim.source] = torch.zeros_like(sources[aim.source])
            aim.seed(cotangents[aim.source][row])
        (gradient,) = torch.autograd.grad(
            [sources[source] for source in cotangents],
            leaf,
            list(cotangents.values()),
            retain_graph=turn + 1 < len(rounds),
            allow_unused=True,
        )
        if gradient is None:
            raise Unsupported("the target does not depend on this layer", reason="TARGET_UNSUPPORTED", field="target")
        if len(rounds) == 1 and [row for _, row in aimed] == list(range(len(leaf))):
            return gradient
        rows = torch.tensor([aimed[number][1] for number in numbers], device=leaf.device)
        result[torch.tensor(numbers, device=leaf.device)] = gradient[rows]
    return result


def _require_dependence(source: Tensor) -> None:
    if not source.requires_grad:
        raise Unsupported(
            "the target does not depend on this layer, or not in a way that can be differentiated",
            reason="TARGET_UNSUPPORTED",
            field="target",
        )


def _append(pieces: dict[str, list[Tensor]], found: dict[str, Tensor]) -> None:
    for source, tensor in found.items():
        pieces.setdefault(source, []).append(tensor)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
