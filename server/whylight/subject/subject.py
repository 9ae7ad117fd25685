"""A model as methods see it: run it, capture layers, ask for gradients; knows no method and no request.

Nothing here changes the model. Everything runs in chunks that stay under the model's memory budget, and asks between
chunks whether the work is still wanted.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.errors import InvalidInput, NotFound, Unsupported
from whylight.subject.aim import LATENT, OUTPUT, Aim, aim_at, needs_output, ranks_in, sources_of
from whylight.subject.altered import (
    Altered,
    altered_gradients,
    altered_layer_scores,
    altered_score_blocks,
    altered_scores,
    rows_per_pass,
    values_of,
)
from whylight.subject.attention import Attended, attention_gradients, attentions
from whylight.subject.backward_rule import BackwardRule
from whylight.subject.cancel import CancelToken
from whylight.subject.curvature import layer_hessian_products
from whylight.subject.gap_head import GapHead
from whylight.subject.memory import Memory
from whylight.subject.pull_back import pull_back
from whylight.target import Objective, Rank, ResolvedTarget, Target

if TYPE_CHECKING:
    from whylight.method import Batch
    from whylight.models.model import Model

INPUT = None
"""In place of a layer: gradients are taken at the input."""


@dataclass(frozen=True)
class Observed:
    """What one pass gave, with its graph: the output if it was asked for, and outputs of layers."""

    output: Tensor | None
    layers: dict[str, Tensor]


class Subject:
    """A model, for one batch. Cheap to make, never shared between threads; many may run on one model at once.

    What was computed for the inputs of a batch is remembered: outputs, activations, gradients. Methods that explain one
    batch one after the other share it. `cancel` is asked by `forward`; calls that take a batch ask the batch's token.
    `others` are the models that are served beside this one, by name.
    """

    def __init__(
        self, model: Model, cancel: CancelToken | None = None, others: Mapping[str, Model] | None = None
    ) -> None:
        self.model = model
        self.device = model.device
        self._cancel = cancel or CancelToken()
        self._others = others or {}
        self._memory: Memory | None = None

    def other(self, name: str, *, field: str = "options.model") -> Subject:
        """Return another model that the server serves, on this one's device, for methods that need two.

        Raises:
            NotFound: none is served under this name (MODEL_NOT_FOUND, at `field`); the message has close matches.
        """
        found = self._others.get(name)
        if found is None:
            close = difflib.get_close_matches(name, self._others, 3)
            hint = f"; close ones are {', '.join(map(repr, close))}" if close else ""
            raise NotFound(f"no model {name!r} is served here{hint}", reason="MODEL_NOT_FOUND", field=field)
        return found.subject(self._cancel, self._others)

    def outputs(self, batch: Batch) -> Tensor:
        """Return the model's selected output for the inputs of the batch, `[N, ...]`, without a graph."""
        memory = self._about(batch)
        if OUTPUT not in memory:
            self._capture(batch, (), latents=False)
        return memory.take(OUTPUT)[0]

    def forward(self, inputs: Tensor, companions: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the selected output for any inputs `[R, C, H, W]` with their companions, without a graph."""
        pieces = []
        for rows in _chunks(len(inputs), self.model.max_rows(), self._cancel):
            with torch.no_grad():
                some = {name: values[rows] for name, values in (companions or {}).items()}
                pieces.append(self.model.run(inputs[rows], some).output)
        return _joined(pieces)

    def activations(self, batch: Batch, *layers: str) -> dict[str, Tensor]:
        """Return the outputs of `layers` `[N, ...]`, by the names that were given, without a graph.

        Raises:
            NotFound: there is no such layer (reason LAYER_NOT_FOUND).
            Unsupported: the layer does not run, or gives no single tensor.
        """
        names = {layer: self.resolve_layer(layer) for layer in layers}
        memory = self._about(batch)
        unknown = tuple(name for name in dict.fromkeys(names.values()) if name not in memory)
        if unknown:
            self._capture(batch, unknown, latents=False)
        return {layer: memory.take(name)[0] for layer, name in names.items()}

    def layer_gradients(self, batch: Batch, layer: str, *, rule: BackwardRule | None = None) -> tuple[Tensor, Tensor]:
        """Return a layer's activations `[N, C, h, w]` and the gradient of each target there, `[M, C, h, w]`.

        Tokens that lie on the picture come as the maps that they make up, and channels come first (`layer_maps`). What
        does not lie on the picture comes as it is.

        The model runs once, without a graph up to the layer, and backward only from the targets to the layer, under
        `rule` if there is one. Behind a head of average pooling and one linear layer (`gap_head`), class targets need
        no backward at all: the gradients are then expanded, with spatial strides of 0. Nor do latents behind one linear
        layer.

        Raises:
            NotFound: there is no such layer (reason LAYER_NOT_FOUND).
            Unsupported: the layer gives no single tensor, or a target does not depend on it.
        """
        name = self.resolve_layer(layer)
        known = None if rule is not None else self._known_gradients(batch, name) or self._through_head(batch, name)
        if known is not None:
            return known
        activations, gradients = self._gradients(batch, name, rule)
        return self._as_maps(batch, name, activations), self._as_maps(batch, name, gradients)

    def latents(self, batch: Batch) -> Tensor:
        """Return the latent variables of each input, `[N, L]`, without a graph.

        Raises:
            Unsupported: the model names none.
        """
        if self.model.latent_shape is None:
            raise Unsupported("the model names no latent variables", field="model")
        return self._latents_and(batch)

    def layer_maps(self, batch: Batch, layer: str) -> Tensor:
        """Return a layer's activations as maps `[N, C, h, w]`, without a graph.

        Tokens `[N, T, C]` are laid out as the grid of patches that they stand for, without those for the class and
        registers; `[N, h, w, C]` gets its channels first.

        Raises:
            NotFound: there is no such layer (reason LAYER_NOT_FOUND).
            Unsupported: what the layer gives does not lie on the picture.
        """
        name = self.resolve_layer(layer)
        if self.model.layout(name) is None:
            raise Unsupported(f"what the layer {name!r} gives does not lie on the picture", field="options.layer")
        return self._as_maps(batch, name, self.activations(batch, name)[name])

    def channel_axis(self, layer: str) -> int:
        """Return which axis of a layer's output for one input has its channels: 0 in `[C, h, w]`, 1 in `[T, C]`."""
        layout = self.model.layout(self.resolve_layer(layer))
        return 0 if layout is None else layout.channel_axis

    def layer_hessian_products(self, batch: Batch, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `layer_gradients` does, and for each target its Hessian at the layer times the activations.

        The products are `[M, C, h, w]`: `Σ_j ∂²y / ∂A_i ∂A_j · A_j`. They are 0 where the network goes on linearly, as
        behind ReLU. The graph of both derivatives is freed before this returns.

        Raises:
            NotFound, Unsupported: as `layer_gradients`.
        """
        name = self.resolve_layer(layer)
        known = self._known_gradients(batch, name)
        if known is not None:
            activations, gradients = known
            return activations, gradients, torch.zeros_like(gradients)
        activations, gradients, products = layer_hessian_products(self, batch, name)
        return (
            self._as_maps(batch, name, activations),
            self._as_maps(batch, name, gradients),
            self._as_maps(batch, name, products),
        )

    def input_gradients(self, batch: Batch, *, rule: BackwardRule | None = None) -> Tensor:
        """Return the gradient of each target at its input, `[M, C, H, W]`, under `rule` if there is one."""
        return self._gradients(batch, INPUT, rule)[1]

    def attentions(self, batch: Batch) -> Iterator[Attended]:
        """Yield the attention of the inputs, as many at a time as memory allows, in order, without a graph.

        Matrices are large (12 layers of ViT-B/16 are 22 MB for each input), so they are not remembered: fold them as
        they come.

        Raises:
            Unsupported: the model has no attention between all tokens of the picture (`Need.ATTENTION`).
        """
        return attentions(self, batch)

    def attention_gradients(self, batch: Batch) -> Iterator[Attended]:
        """Yield the attention of the targets and the gradient of each target there, some targets at a time.

        Each input runs forward once, whatever number of targets it has. Targets come in any order: see
        `Attended.numbers`.

        Raises:
            Unsupported: as `attentions`, or a target does not depend on attention.
        """
        return attention_gradients(self, batch)

    def gap_head(self, layer: str | None = None) -> GapHead | None:
        """Return the closed form of the head, if the model ends so; with `layer`, only if it begins right behind it."""
        head = self.model.head
        if head is None or layer is None:
            return head
        return head if self.model.same_output(self.resolve_layer(layer), head.layer) else None

    def scores(self, batch: Batch) -> Tensor:
        """Return the value of each target, `[M]`, in the output's type; asks the model only if it must."""
        return self._scores(batch, self.aims(batch))

    def resolve(self, batch: Batch) -> tuple[ResolvedTarget, ...]:
        """Return what each target of the batch turned out to be, with its value; asks the model only if it must."""
        aims = self.aims(batch)
        values = self._scores(batch, aims).tolist()
        return tuple(ResolvedTarget(aim.target, aim.label, value) for aim, value in zip(aims, values, strict=True))

    def altered_scores(
        self, batch: Batch, count: int, alter: Callable[[int], Tensor], *, rule: BackwardRule | None = None
    ) -> Iterator[Tensor]:
        """Yield, for each of `count` altered copies of the inputs, in order, the value of each target `[M]`.

        ``alter(k)`` gives the k-th copy of all inputs, `[N, C, H, W]`. Ranks are those of the unaltered inputs. Copies
        share passes as memory allows, and are made as they are needed. `rule` sees the functions that run; there is no
        way back.
        """
        return altered_scores(self, batch, count, alter, rule)

    def altered_score_blocks(
        self, batch: Batch, count: int, alter: Callable[[range], Tensor]
    ) -> Iterator[tuple[range, Tensor]]:
        """Yield, for `count` altered copies in blocks that fill a pass, the copies' numbers and their values `[K, M]`.

        As `altered_scores`, for copies that are made many at once: ``alter(block)`` gives `[len(block), N, C, H, W]`.
        How many copies a block has depends on N and on memory alone, and so not on how many targets there are.
        """
        return altered_score_blocks(self, batch, count, alter)

    def altered_gradients(
        self,
        batch: Batch,
        count: int,
        alter: Callable[[int], Tensor],
        *,
        layer: str | None = INPUT,
        rule: BackwardRule | None = None,
    ) -> Iterator[Altered]:
        """Yield, for each of `count` altered copies of the inputs, in order, scores, activations and gradients.

        As `altered_scores`; gradients are those of `layer_gradients` at `layer`, or of `input_gradients`.
        """
        if layer is INPUT:
            return altered_gradients(self, batch, count, alter, INPUT, rule)
        name = self.resolve_layer(layer)
        return (
            replace(
                altered,
                activations=self._as_maps(batch, name, altered.activations),
                gradients=self._as_maps(batch, name, altered.gradients),
            )
            for altered in altered_gradients(self, batch, count, alter, name, rule)
        )

    def altered_layer_scores(
        self, batch: Batch, layer: str, count: int, alter: Callable[[int, int, Tensor], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield, for each input and each of `count` alterations of a layer's output, the values of the input's targets.

        ``alter(row, k, activations)`` gives what runs behind the layer in place of the activations `[C, h, w]` of input
        `row`. Yields `(row, values)`, input by input, alterations in order; values are of the targets of that row, in
        their order. The network runs once for each input up to the layer, where its structure allows.
        """
        return altered_layer_scores(self, batch, self.resolve_layer(layer), count, alter)

    def aim(self, target: Target) -> Aim:
        """Return a target of no input made definite, so that its value can be differentiated.

        Raises:
            InvalidInput, NotFound, Unsupported: the model cannot answer for it; a rank needs an input.
        """
        if isinstance(target, Rank):
            raise InvalidInput(
                "a rank is of an input's predictions, and there is no input; name a class",
                reason="TARGET_INVALID",
                field="target",
            )
        return aim_at(self.model, target)

    def observe(self, inputs: Tensor, layers: Iterable[str] = (), *, output: bool = True) -> Observed:
        """Return the output and the outputs of `layers` (own names) for any inputs `[R, C, H, W]`, with their graph.

        In one pass, which the caller keeps to `rows_with_gradients`; without `output` it ends at the last of `layers`.

        Raises:
            Unsupported: a layer does not run, or gives no single tensor.
        """
        watch = tuple(layers)
        if output:
            ran = self.model.run(inputs, watch=watch)
            return Observed(ran.output, ran.watched)
        return Observed(None, self.model.capture(inputs, watch) if watch else {})

    def rows_with_gradients(self, share: float = 1.0) -> int:
        """Return how many inputs, each of `share` times the usual pixels, may run at once with gradients there."""
        rows = rows_per_pass(self.model, "")
        return rows if share <= 1 else max(1, min(rows, int(self.model.max_rows("") / share)))

    def inputs_of(self, images: Tensor) -> Tensor:
        """Return the model's inputs for images `[R, C, H, W]` of 0 (black) to 1 (white), RGB; differentiable."""
        return self.model.transform.from_unit(images)

    def images_of(self, inputs: Tensor) -> Tensor:
        """Return the images of 0 (black) to 1 (white), RGB, that inputs `[R, C, H, W]` are; differentiable."""
        return self.model.transform.to_unit(inputs)

    def resolve_layer(self, name: str) -> str:
        """Return the layer that `name` means; "last-spatial" is the model's last layer with maps.

        Raises:
            NotFound: there is no such layer; the message has close matches.
            Unsupported: "last-spatial", of a model that has none.
        """
        return self.model.layer(name).name

    def begin(self) -> None:
        """Begin to write down what is taken from memory, for `taken_over`."""
        if self._memory is not None:
            self._memory.begin()

    def taken_over(self) -> tuple[str, ...]:
        """Return what was computed before the last `begin` and used since, such as "output", "gradients at layer4"."""
        return () if self._memory is None else tuple(self._memory.taken)

    def aims(self, batch: Batch) -> list[Aim]:
        """Return the targets of the batch made definite; ranks and detections need the output."""
        needed = any(needs_output(target) for target in batch.targets)
        return self._aims_of(batch, range(len(batch.targets)), self.outputs(batch) if needed else None, 0)

    def _scores(self, batch: Batch, aims: list[Aim]) -> Tensor:
        memory = self._about(batch)
        unknown = tuple(dict.fromkeys(aim.source for aim in aims if aim.source not in memory))
        if unknown:
            self._capture(batch, tuple(n for n in unknown if n not in (OUTPUT, LATENT)), latents=LATENT in unknown)
        sources = {source: memory.take(source)[0] for source in dict.fromkeys(aim.source for aim in aims)}
        return values_of(list(zip(aims, batch.rows, strict=True)), sources)

    def _known_gradients(self, batch: Batch, layer: str) -> tuple[Tensor, Tensor] | None:
        """Return activations and gradients, if the gradients of all targets there are the same for every input."""
        aims = [aim_at(self.model, target) for target in batch.targets]
        head = self.gap_head(layer)
        if head is not None and all(aim.class_index is not None for aim in aims):
            activations = self.activations(batch, layer)[layer]
            classes = torch.tensor([aim.class_index for aim in self.aims(batch)], device=self.device)
            return activations, head.gradients(classes, (activations.shape[2], activations.shape[3]))
        if all(aim.source == LATENT for aim in aims):
            latents = self._latents_and(batch, layer)
            activations = self.activations(batch, layer)[layer]
            known = self.model.latent_head(layer, batch.inputs[:1])
            if known is not None and known.holds(activations, latents):
                gradients = known.jacobian[torch.tensor([aim.index[0] for aim in aims], device=self.device)]
                return self._as_maps(batch, layer, activations), self._as_maps(batch, layer, gradients)
        return None

    def _latents_and(self, batch: Batch, *layers: str) -> Tensor:
        """Return the latents of each input; if the model must be asked, keep the outputs of `layers` of that pass."""
        memory = self._about(batch)
        if LATENT not in memory:
            self._capture(batch, layers, latents=True)
        return memory.take(LATENT)[0]

    def _through_head(self, batch: Batch, layer: str) -> tuple[Tensor, Tensor] | None:
        """Return activations and gradients, if all targets are functions of scores that the head makes of the layer."""
        head = self.gap_head(layer)
        if head is None or not all(isinstance(target, Objective) for target in batch.targets):
            return None
        activations, outputs = self.activations(batch, layer)[layer], self.outputs(batch)
        slopes = [aim.slope(outputs[row]) for aim, row in zip(self.aims(batch), batch.rows, strict=True)]
        return activations, head.pulled_back(slopes, (activations.shape[2], activations.shape[3]))

    def _as_maps(self, batch: Batch, layer: str, output: Tensor) -> Tensor:
        layout = self.model.layout(layer)
        return output if layout is None else layout.maps(output, (batch.inputs.shape[-2], batch.inputs.shape[-1]))

    def _about(self, batch: Batch) -> Memory:
        if self._memory is None or not self._memory.is_of(batch.inputs, batch.companions):
            self._memory = Memory(batch.inputs, batch.companions)
        return self._memory

    def _capture(self, batch: Batch, layers: tuple[str, ...], *, latents: bool) -> None:
        """Run without a graph; keep outputs of layers, the output, and the latents if asked for."""
        pieces: dict[str, list[Tensor]] = {}
        for rows in _chunks(len(batch.inputs), self.model.max_rows(), batch.cancel):
            with torch.no_grad():
                ran = self.model.run(batch.inputs[rows], batch.companions_at(rows), watch=layers, latents=latents)
            _append(pieces, ran.sources())
        self._keep(batch, pieces)

    def _keep(self, batch: Batch, pieces: dict[str, list[Tensor]]) -> None:
        for source, parts in pieces.items():
            self._about(batch).keep(source, _NAMES.get(source, f"activations of {source}"), _joined(parts))

    def _aims_of(self, batch: Batch, targets: Iterable[int], output: Tensor | None, first_row: int) -> list[Aim]:
        """Make some targets definite; `output` is that of the inputs from `first_row` on, if any of them needs it."""
        chosen = list(targets)
        ranks = [rank for target in chosen for rank in ranks_in(batch.targets[target])]
        rankings: list[list[int]] = []
        if ranks and output is not None:
            aim_at(self.model, Rank(max(ranks)))
            rankings = output.argsort(dim=1, descending=True, stable=True)[:, : max(ranks) + 1].tolist()
        aims = [
            aim_at(self.model, batch.targets[target], rankings[batch.rows[target] - first_row] if rankings else None)
            for target in chosen
        ]
        for aim, target in zip(aims, chosen, strict=True):
            if aim.require is not None and output is not None:
                aim.require(output[batch.rows[target] - first_row])
        return aims

    def _gradients(self, batch: Batch, layer: str | None, rule: BackwardRule | None = None) -> tuple[Tensor, Tensor]:
        """Return activations (at the input: inputs) and gradients, from memory or by one pass there and back."""
        memory = self._about(batch)
        key = (layer, rule, batch.targets, batch.rows)
        if key not in memory:
            place = "the input" if layer is INPUT else layer
            memory.keep(key, f"gradients at {place}", *self._pass_back(batch, layer, rule))
        activations, gradients = memory.take(key)
        return activations, gradients

    def _pass_back(self, batch: Batch, layer: str | None, rule: BackwardRule | None) -> tuple[Tensor, Tensor]:
        activations: list[Tensor] = []
        gradients: list[Tensor] = []
        pieces: dict[str, list[Tensor]] = {}
        neurons, latents = sources_of([aim_at(self.model, target) for target in batch.targets])
        size = self.model.max_rows(gradients_at=layer or "")
        place = "the input" if layer is INPUT else f"layer {layer!r}"
        for rows in _chunks(len(batch.inputs), size, batch.cancel):
            inputs = batch.inputs[rows]
            with torch.enable_grad():
                if layer is INPUT:
                    inputs = inputs.detach().clone().requires_grad_(True)
                companions = batch.companions_at(rows)
                ran = self.model.run(inputs, companions, split=layer, watch=neurons, latents=latents, rule=rule)
                leaf = inputs if ran.leaf is None else ran.leaf
                sources = ran.sources()
                targets = [m for m, row in enumerate(batch.rows) if rows.start <= row < rows.stop]
                aims = self._aims_of(batch, targets, sources[OUTPUT].detach(), rows.start)
                aimed = [(aim, batch.rows[m] - rows.start) for aim, m in zip(aims, targets, strict=True)]
                gradients.append(pull_back(leaf, sources, aimed, batch.cancel, rule, place))
            activations.append(leaf.detach())
            _append(pieces, {source: tensor.detach() for source, tensor in sources.items()})
        # Under most rules the same numbers may be rounded otherwise, and so they are where torch.compile is left out.
        if rule is None or (rule.keeps_values and self.model.compiled_from is None):
            if layer is not INPUT:
                pieces[layer] = activations
            self._keep(batch, pieces)
        return _joined(activations), _joined(gradients)


_NAMES = {OUTPUT: "output", LATENT: "latents"}


def _chunks(count: int, size: int, cancel: CancelToken) -> Iterator[slice]:
    for start in range(0, count, size):
        cancel.check()
        yield slice(start, min(start + size, count))


def _append(pieces: dict[str, list[Tensor]], found: dict[str, Tensor]) -> None:
    for source, tensor in found.items():
        pieces.setdefault(source, []).append(tensor)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
