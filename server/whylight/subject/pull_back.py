"""The backward pass: from aims to the gradient of each at its row of a leaf; knows no model and no chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from whylight.errors import Unsupported
from whylight.subject.aim import Aim
from whylight.subject.backward_rule import BackwardRule
from whylight.subject.cancel import CancelToken


def pull_back(
    leaf: Tensor,
    sources: Mapping[str, Tensor],
    aimed: Sequence[tuple[Aim, int]],
    cancel: CancelToken,
    rule: BackwardRule | None = None,
    place: str = "this layer",
) -> Tensor:
    """Return the gradient of each aim at its row of the leaf, `[M, ...]`; what `rule` seeds goes back, if there is one.

    Rows do not influence one another, so one backward pass serves one target of every row; there are as many passes as
    the row with the most targets has. `place` is what the leaf is called in the words of a refusal.

    Raises:
        Unsupported: an aim does not depend on the leaf (reason TARGET_UNSUPPORTED).
    """
    turns = rounds(aimed)
    result = leaf.new_empty((len(aimed), *leaf.shape[1:]))
    for turn, numbers in enumerate(turns):
        cancel.check()
        cotangents = cotangents_of(sources, [aimed[number] for number in numbers], place)
        if rule is not None:
            cotangents = {name: rule.seed(one, sources[name].detach()) for name, one in cotangents.items()}
        (gradient,) = torch.autograd.grad(
            [sources[source] for source in cotangents],
            leaf,
            list(cotangents.values()),
            retain_graph=turn + 1 < len(turns),
            allow_unused=True,
        )
        if gradient is None:
            raise Unsupported(f"the target does not depend on {place}", reason="TARGET_UNSUPPORTED", field="target")
        if len(turns) == 1 and [row for _, row in aimed] == list(range(len(leaf))):
            return gradient
        rows = torch.tensor([aimed[number][1] for number in numbers], device=leaf.device)
        result[torch.tensor(numbers, device=leaf.device)] = gradient[rows]
    return result


def cotangents_of(
    sources: Mapping[str, Tensor], aimed: Sequence[tuple[Aim, int]], place: str = "this layer"
) -> dict[str, Tensor]:
    """Return what goes back from each source that aims point into: their derivative at it, 0 where none points.

    Raises:
        Unsupported: a source does not depend on what gradients are wanted at (reason TARGET_UNSUPPORTED).
    """
    cotangents: dict[str, Tensor] = {}
    for aim, row in aimed:
        source = sources[aim.source]
        _require_dependence(source, place)
        if aim.source not in cotangents:
            cotangents[aim.source] = torch.zeros_like(source)
        aim.seed(cotangents[aim.source][row], source[row].detach())
    return cotangents


def rounds(aimed: Sequence[tuple[Aim, int]]) -> list[list[int]]:
    """Share the numbers of the aims out to passes, each with at most one of every row."""
    turns: list[list[int]] = []
    taken: dict[int, int] = {}
    for number, (_, row) in enumerate(aimed):
        turn = taken[row] = taken.get(row, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(number)
    return turns


def _require_dependence(source: Tensor, place: str) -> None:
    if not source.requires_grad:
        raise Unsupported(
            f"the target does not depend on {place}, or not in a way that can be differentiated",
            reason="TARGET_UNSUPPORTED",
            field="target",
        )
