"""The nodes of autograd's graph that hand back relevance in place of gradients; knows no function of torch by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import whylight
from whylight_relevance.rules import LinearMap, Rule
from whylight_relevance.shares import Part, Share


class Step:
    """One function of a run, with its way back. `gate` says that its value opens and closes something."""

    def __init__(self, share: Share | None, *, gate: bool = False) -> None:
        self._share = share
        self.gate = gate

    def back(self, relevance: Tensor) -> tuple[Tensor | None, ...]:
        """Return the relevance of each input."""
        assert self._share is not None
        return self._share(relevance)


class Weighted(Step):
    """A layer with weights. Its rule is made ready when the next function takes its value.

    Until then a batch normalisation may become part of it.
    """

    def __init__(self, linear: LinearMap, rule: Rule, plain: Part | None, *, takes_norm: bool) -> None:
        super().__init__(None)
        self.takes_norm = takes_norm
        self._linear = linear
        self._rule = rule
        self._plain = plain
        self.taken = False
        self.merged = False

    def merge(self, scale: Tensor, shift: Tensor) -> None:
        """Make `scale` and `shift`, of each output channel, part of the weights."""
        linear = self._linear
        bias = shift if linear.bias is None else linear.bias * scale + shift
        self._linear = replace(linear, scale=scale, bias=bias)
        if self._plain is not None:
            across = (1, -1, *(1,) * (self._plain.z.dim() - 2))
            with torch.enable_grad():
                self._plain = replace(self._plain, z=self._plain.z * scale.view(across) + shift.view(across))
        self.merged, self._share = True, None

    def take(self) -> None:
        """Another function than a normalisation takes the value.

        Raises:
            Unsupported: a normalisation, which has become part of this layer, took it before.
        """
        if self.merged:
            raise whylight.Unsupported(
                f"relevance cannot go back: the output of layer {self._linear.layer!r} is normalised and used besides",
                field="model",
            )
        self.taken = True
        self.make_ready()

    def make_ready(self) -> None:
        """Compute what the way back needs."""
        if self._share is None:
            self._share = self._rule.share(self._linear, self._plain)

    def back(self, relevance: Tensor) -> tuple[Tensor | None, ...]:
        """Return the relevance of the input."""
        self.make_ready()
        return super().back(relevance)


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, value: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.step = step
        return value.pop()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        return (None, None, *ctx.step.back(relevance))


def node(step: Step, value: Tensor, *inputs: Tensor) -> Tensor:
    """Return `value`, without a graph and of its own storage, as what `step` makes of `inputs`."""
    result: Tensor = _Node.apply(step, [value], *inputs)
    return result


def step_of(graph: Any) -> Step | None:
    """Return the step of a node of the graph, if it is one of ours."""
    return getattr(graph, "step", None) if isinstance(graph, torch.autograd.function.BackwardCFunction) else None


def layers_behind(graph: Any) -> list[Weighted]:
    """Return the layers whose values, whole or by blocks of rows, make up the value of a node; none if others do."""
    step = step_of(graph)
    if step is not None:
        return [step] if isinstance(step, Weighted) else []
    if not _hands_rows_on(graph):
        return []
    found = [layers_behind(before) for before, _ in graph.next_functions]
    return [] if not all(found) else [layer for layers in found for layer in layers]


def is_behind_weights(graph: Any) -> bool:
    """Whether any layer with weights lies between the model's input and a node."""
    seen, waiting = set(), [graph]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        if isinstance(step_of(one), Weighted):
            return True
        seen.add(one)
        waiting.extend(before for before, _ in one.next_functions)
    return False


def is_gate(graph: Any) -> bool:
    """Whether the value of a node is that of a gate, perhaps in another shape."""
    while graph is not None:
        step = step_of(graph)
        if step is not None or len(graph.next_functions) != 1:
            return step is not None and step.gate
        graph = graph.next_functions[0][0]
    return False


def _hands_rows_on(graph: Any) -> bool:
    """Whether a node takes whole rows of its inputs as they are."""
    name = type(graph).__name__
    if name in ("SliceBackward0", "CatBackward0"):
        return bool(graph._saved_dim == 0)
    return name in ("CloneBackward0", "AliasBackward0", "ToCopyBackward0")


def passing(value: Callable[[], Tensor], input: Tensor, *, gate: bool = False) -> Tensor:
    """Return a value, all of whose relevance is that of `input`, element by element; broadcast ones are added up."""
    with torch.no_grad():
        found = value()
    shape = input.shape
    return node(Step(lambda relevance: (relevance.sum_to_size(shape),), gate=gate), found, input)
