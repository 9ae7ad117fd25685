"""Runs over altered copies of a batch's inputs, or of a layer's output, many copies to a pass; knows no method.

A copy gets the same bits whatever copies share its pass, and copies come in order: a method that adds them up as they
come gives an input the same bits alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.errors import Unsupported
from whylight.subject.aim import LATENT, OUTPUT, Aim, sources_of
from whylight.subject.backward_rule import BackwardRule
from whylight.subject.lacking import is_out_of_memory
from whylight.subject.pull_back import pull_back

if TYPE_CHECKING:
    from whylight.method import Batch
    from whylight.models.model import Model
    from whylight.subject.subject import Subject

ROWS_PER_PASS = {"cpu": 16, "cuda": 256}
"""More rows than these in one pass make it no faster, and take memory.

On one core at 224 x 224 each row of 32 takes a fifth longer than of 16: 24.2 ms to 19.6 for ResNet-18, 89 to 73 for
ResNet-50, whose pages the system gives anew for every large tensor. At 128 x 128 it is the same.
"""
ROWS_WITH_GRADIENTS = {"cpu": 8, "cuda": 256}
"""Likewise there and back, where more is allocated: a row of ResNet-18 takes 49.5 ms with 8, 47.5 with 16 and 59.5 with
32 on a quiet machine, and 53.8 with 8 and 62.1 with 16 on a busy one, for half the memory.
"""


@dataclass(frozen=True)
class Altered:
    """What one altered copy of all inputs gave: scores `[M]`, and where asked for the activations and gradients.

    `activations` are `[N, C, h, w]`, or the copies themselves `[N, C, H, W]`; `gradients` have one row for each target.
    """

    index: int
    scores: Tensor
    activations: Tensor
    gradients: Tensor


def altered_scores(
    subject: Subject, batch: Batch, count: int, alter: Callable[[int], Tensor], rule: BackwardRule | None = None
) -> Iterator[Tensor]:
    """Yield the scores `[M]` of each copy; see `Subject.altered_scores`."""
    for _, values in _scored_groups(subject, batch, count, lambda group: _copies(batch, group, alter), rule):
        yield from values


def altered_score_blocks(
    subject: Subject, batch: Batch, count: int, alter: Callable[[range], Tensor]
) -> Iterator[tuple[range, Tensor]]:
    """Yield blocks of copies with their scores `[K, M]`; see `Subject.altered_score_blocks`."""

    def copies(group: range) -> Tensor:
        made = alter(group)
        if made.shape != (len(group), *batch.inputs.shape):
            raise ValueError(f"{len(group)} altered copies of {list(batch.inputs.shape)} are {list(made.shape)}")
        return made.flatten(0, 1)

    return _scored_groups(subject, batch, count, copies)


def _scored_groups(
    subject: Subject,
    batch: Batch,
    count: int,
    copies_of: Callable[[range], Tensor],
    rule: BackwardRule | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """Yield groups of copies that fill passes, with their scores `[K, M]`; `copies_of` lays a group's end to end."""
    aims = subject.aims(batch)
    layers, latents = sources_of(aims)
    targets = _by_row(batch)
    rows = rows_per_pass(subject.model, None)

    def scored(group: range) -> Tensor:
        # Here and not between yields: while others have their turn, nothing is kept but values.
        copies = copies_of(group)
        parts = []
        for start in range(0, len(copies), rows):
            batch.cancel.check()
            inputs = copies[start : start + rows]
            companions = _companions(batch, start, len(inputs))
            with torch.no_grad():
                sources = subject.model.run(inputs, companions, watch=layers, latents=latents, rule=rule).sources()
            aimed = _aimed(aims, targets, start, len(inputs))
            parts.append(values_of(aimed, sources))
        return torch.cat(parts).view(len(group), len(aims))

    for group in _groups(count, len(batch.inputs), rows):
        batch.cancel.check()
        yield group, scored(group)


def altered_gradients(
    subject: Subject,
    batch: Batch,
    count: int,
    alter: Callable[[int], Tensor],
    layer: str | None,
    rule: BackwardRule | None,
) -> Iterator[Altered]:
    """Yield what each copy gave; see `Subject.altered_gradients`."""
    aims = subject.aims(batch)
    layers, latents = sources_of(aims)
    targets = _by_row(batch)
    rows = rows_per_pass(subject.model, layer or "")

    def explained(group: range) -> tuple[Tensor, Tensor, Tensor]:
        # Here and not between yields: while what was found is looked at, neither copies nor graphs are kept.
        copies = _copies(batch, group, alter)
        scores, activations, gradients = [], [], []
        for start in range(0, len(copies), rows):
            batch.cancel.check()
            inputs = copies[start : start + rows]
            aimed = _aimed(aims, targets, start, len(inputs))
            with torch.enable_grad():
                if layer is None:
                    inputs = inputs.detach().clone().requires_grad_(True)
                companions = _companions(batch, start, len(inputs))
                ran = subject.model.run(inputs, companions, split=layer, watch=layers, latents=latents, rule=rule)
                leaf = inputs if ran.leaf is None else ran.leaf
                sources = ran.sources()
                gradients.append(pull_back(leaf, sources, aimed, batch.cancel, rule))
            scores.append(values_of(aimed, sources))
            activations.append(leaf.detach())
        return _joined(scores), _joined(activations), _joined(gradients)

    for group in _groups(count, len(batch.inputs), rows):
        scores, activations, gradients = explained(group)
        each = zip(
            group,
            torch.split(scores, len(aims)),
            torch.split(activations, len(batch.inputs)),
            torch.split(gradients, len(aims)),
            strict=True,
        )
        for index, values, shown, slopes in each:
            yield Altered(index, values, shown, slopes)


def altered_layer_scores(
    subject: Subject, batch: Batch, layer: str, count: int, alter: Callable[[int, int, Tensor], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Yield the row and its targets' values for each alteration; see `Subject.altered_layer_scores`."""
    aims = subject.aims(batch)
    layers, latents = sources_of(aims)
    targets = _by_row(batch)
    rows = rows_per_pass(subject.model, None)
    for row, input in enumerate(torch.split(batch.inputs, 1)):
        own = batch.companions_at(slice(row, row + 1))
        mine = [aims[m] for m in targets[row]]
        for source in dict.fromkeys(aim.source for aim in mine):
            if not subject.model.reaches(layer, source, input, own):
                what = {OUTPUT: "the output", LATENT: "the latents"}.get(source, f"layer {source!r}")
                raise Unsupported(
                    f"the target is of {what}, which does not depend on layer {layer!r}: choose a layer before it",
                    reason="TARGET_UNSUPPORTED",
                    field="target",
                )
        shared = shares_head(subject, batch, row, layer)
        for start in range(0, count, rows):
            batch.cancel.check()
            group = range(start, min(start + rows, count))
            inputs = input if shared else input.expand(len(group), *input.shape[1:])
            companions = {name: _filled(values, len(inputs)) for name, values in own.items()}

            def swapped(output: Tensor, row: int = row, group: range = group) -> Tensor:
                shown = output.expand(len(group), *output.shape[1:])
                return torch.stack([alter(row, k, one) for k, one in zip(group, shown, strict=True)])

            with torch.no_grad():
                ran = subject.model.run(inputs, companions, watch=layers, latents=latents, swap=(layer, swapped))
            aimed = [(aim, place) for place in range(len(group)) for aim in mine]
            sources = {name: _filled(tensor, len(group)) for name, tensor in ran.sources().items()}
            for values in torch.split(values_of(aimed, sources), len(mine)):
                yield row, values


def shares_head(subject: Subject, batch: Batch, row: int, layer: str) -> bool:
    """Whether one row may run up to `layer` and several behind it, which skips over the layer can prevent.

    Found out for each input, since a network may decide by it how it goes on: two rows of the layer's own output must
    give the input's own answer twice.
    """
    alone = subject.outputs(batch)[row]
    rows = slice(row, row + 1)
    twice = (layer, lambda output: output.repeat(2, *[1] * (output.dim() - 1)))
    with torch.no_grad():
        try:
            both = subject.model.run(batch.inputs[rows], batch.companions_at(rows), swap=twice).output
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return False
    return both.shape == (2, *alone.shape) and bool((both - alone).abs().max() <= 1e-4 * alone.abs().max())


def reaches(
    model: Model, layer: str, source: str, input: Tensor, companions: Mapping[str, Tensor] | None = None
) -> bool:
    """Whether `source`, a layer, the output or the latents, depends on the output of `layer`, for `input` `[1, ...]`.

    It does where there is a graph between them, and else, since what is not differentiable has none, where it is
    another once the layer gives zeros.
    """
    watch, latents = (() if source in (OUTPUT, LATENT) else (source,)), source == LATENT
    with torch.enable_grad():
        found = model.run(input, companions, split=layer, watch=watch, latents=latents, plain=True).sources()[source]
    if found.requires_grad:
        return True
    with torch.no_grad():
        swap = (layer, torch.zeros_like)
        changed = model.run(input, companions, watch=watch, latents=latents, swap=swap).sources()[source]
    return not torch.equal(changed, found)


def values_of(aimed: Sequence[tuple[Aim, int]], sources: Mapping[str, Tensor]) -> Tensor:
    """Return the value of each aim at its row of its source, `[len(aimed)]`, in the type and place of the sources."""
    classes = [aim.class_index for aim, _ in aimed]
    output = next(iter(sources.values())) if not aimed else sources[aimed[0][0].source]
    if all(index is not None for index in classes):
        rows = torch.tensor([row for _, row in aimed], device=output.device)
        return output.detach()[rows, torch.tensor(classes, device=output.device)]
    # Once to the host: each value by itself would wait for the device.
    near = {source: sources[source].detach().cpu() for source in dict.fromkeys(aim.source for aim, _ in aimed)}
    values = [aim.value(near[aim.source][row]) for aim, row in aimed]
    return torch.tensor(values, dtype=output.dtype, device=output.device)


def rows_per_pass(model: Model, gradients_at: str | None) -> int:
    """Return how many rows go through the model at once; see `Model.max_rows` for `gradients_at`."""
    most = ROWS_PER_PASS if gradients_at is None else ROWS_WITH_GRADIENTS
    return min(model.max_rows(gradients_at), most.get(model.device.type, most["cpu"]))


def _groups(count: int, inputs: int, rows: int) -> Iterator[range]:
    """Share copies out to groups that fill a pass; one copy to a group where the inputs alone do."""
    size = max(1, rows // inputs)
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def _copies(batch: Batch, group: range, alter: Callable[[int], Tensor]) -> Tensor:
    copies = [alter(index) for index in group]
    for copy in copies:
        if copy.shape != batch.inputs.shape:
            raise ValueError(f"an altered copy of {list(batch.inputs.shape)} is {list(copy.shape)}")
    return copies[0] if len(copies) == 1 else torch.cat(copies)


def _companions(batch: Batch, start: int, count: int) -> dict[str, Tensor]:
    """Return the companions of `count` rows of copies laid end to end, from the row `start` on."""
    if not batch.companions:
        return {}
    return batch.companions_at(torch.arange(start, start + count, device=batch.inputs.device) % len(batch.inputs))


def _by_row(batch: Batch) -> list[list[int]]:
    """Return the targets of each row, in their order."""
    targets: list[list[int]] = [[] for _ in range(len(batch.inputs))]
    for target, row in enumerate(batch.rows):
        targets[row].append(target)
    return targets


def _aimed(aims: Sequence[Aim], targets: Sequence[Sequence[int]], start: int, count: int) -> list[tuple[Aim, int]]:
    """Return the aims of `count` rows of copies laid end to end, from the row `start` on, with the row of each."""
    return [(aims[m], row) for row in range(count) for m in targets[(start + row) % len(targets)]]


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _filled(tensor: Tensor, rows: int) -> Tensor:
    return tensor.expand(rows, *tensor.shape[1:]) if len(tensor) == 1 else tensor
