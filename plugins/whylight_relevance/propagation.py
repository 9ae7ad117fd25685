"""Layer-wise relevance propagation as a backward rule: each function of a run gets its way back; knows no method.

What a function is to relevance says the catalogue; which rule a layer with weights gets, the composite. A function
that has no entry is refused as soon as it would carry a gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

import whylight
from whylight_relevance import attention, catalogue
from whylight_relevance.composites import Composite
from whylight_relevance.rules import LinearMap, ZBox
from whylight_relevance.shares import Proportional, part
from whylight_relevance.steps import (
    Step,
    Weighted,
    is_behind_weights,
    is_gate,
    layers_behind,
    node,
    passing,
)


@dataclass(frozen=True)
class Propagation(whylight.BackwardRule):
    """Hands relevance back by the rules of a composite; `bounds` are the model's lowest and highest inputs, by channel.

    Everything is computed in the type of the inputs, float32 or wider, whatever precision the model is served in.
    """

    composite: Composite
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def seed(self, derivative: Tensor, value: Tensor) -> Tensor:
        """Return the value itself: it is what there is to share out."""
        return derivative * value

    def call(self, call: whylight.FunctionCall) -> Any:
        """See `BackwardRule`.

        Raises:
            Unsupported: no rule covers the function; the message names it and the layer.
        """
        carriers = list(_carriers([*call.args, *call.kwargs.values()])) if torch.is_grad_enabled() else []
        if not carriers:
            return call.proceed()
        with _without_autocast():
            return self._relevant(call, carriers)

    def _relevant(self, call: whylight.FunctionCall, carriers: list[Tensor]) -> Any:
        function = call.function
        if function in catalogue.WRITTEN_IN_PYTHON:
            return call.descend()
        bounds = [] if self.bounds is None else [self._bounds_of(carrier) for carrier in carriers]
        result = self._result(call, carriers)
        if self.bounds is not None:
            self._keep_bounds(call, bounds, result)
        return result

    def _result(self, call: whylight.FunctionCall, carriers: list[Tensor]) -> Any:
        function = call.function
        if function in catalogue.BATCH_NORM:
            return self._batch_norm(call)
        if function not in catalogue.HANDING_ON:
            result = self._handled(call, carriers)
            if result is not None:
                return result
        elif _in_place(call):
            raise _refused(call)
        result = call.proceed()
        if function not in catalogue.ROUTING and any(True for _ in _carriers([result])):
            raise _refused(call)
        return result

    def _handled(self, call: whylight.FunctionCall, carriers: list[Tensor]) -> Tensor | None:
        """Return the value of a function that needs another way back, None of one that needs none."""
        function = call.function
        way = _WAYS.get(function)
        if way is None and function not in catalogue.ROUTING:
            return None
        for carrier in carriers:
            for layer in layers_behind(carrier.grad_fn):
                layer.take()
        if way is None:
            return None
        if not _in_place(call):
            return way(self, call)
        written = call.args[0]
        if not written.requires_grad:
            raise _refused(call)
        changed = replace(
            call, function=catalogue.OUT_OF_PLACE.get(function, function), args=(written.clone(), *call.args[1:])
        )
        result: Tensor = written.copy_(way(self, changed))
        if hasattr(result, _BOUNDS):
            delattr(result, _BOUNDS)
        return result

    def _bounds_of(self, input: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the lowest and highest values that a tensor may have, if it is the model's input in another shape."""
        if self.bounds is None:
            return None
        if _is_given(input.grad_fn) and input.dim() > 1 and input.shape[1] == len(self.bounds[0]):
            across = (1, -1, *(1,) * (input.dim() - 2))
            low, high = (input.new_tensor(bound).view(across).expand_as(input) for bound in self.bounds)
            return low, high
        return getattr(input, _BOUNDS, None)

    def _keep_bounds(
        self, call: whylight.FunctionCall, bounds: list[tuple[Tensor, Tensor] | None], result: Any
    ) -> None:
        """Bring bounds along when the model's input is only moved, shifted or scaled."""
        moved = call.function in catalogue.ROUTING or (call.function in catalogue.AFFINE and len(bounds) == 1)
        if not moved or not isinstance(result, Tensor) or not all(bounds):
            return
        function = catalogue.OUT_OF_PLACE.get(call.function, call.function)
        with torch.no_grad():
            ends = [
                function(*_with(iter([pair[end] for pair in bounds if pair]), call.args), **dict(call.kwargs))
                for end in (0, 1)
            ]
        setattr(result, _BOUNDS, (torch.minimum(*ends), torch.maximum(*ends)))

    def _weighted(self, call: whylight.FunctionCall) -> Tensor:
        input, weight, bias = (call.argument(n, name) for n, name in enumerate(("input", "weight", "bias")))
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            raise _refused(call, "its weights are computed from the input")
        rest = call.args[3:]
        named = {name: value for name, value in call.kwargs.items() if name not in ("input", "weight", "bias")}

        def compute(values: Tensor, weights: Tensor, biases: Tensor | None) -> Tensor:
            result: Tensor = call.function(values, weights, biases, *rest, **named)
            return result

        first = not is_behind_weights(input.grad_fn)
        rule = self.composite.rule(call.layer, convolution=call.function not in catalogue.LINEAR, first=first)
        values = input.detach()
        weight, bias = weight.detach(), None if bias is None else bias.detach().to(values.dtype)
        bounds = self._bounds_of(input) if isinstance(rule, ZBox) else None
        rows = max(1, BLOCK_BYTES // weight[0].nbytes) if call.function in catalogue.LINEAR else None
        linear = LinearMap(compute, values, weight, bias, call.layer, bounds, rows=rows)

        def plainly(leaf: Tensor) -> Tensor:
            return compute(leaf, weight.to(values.dtype), bias)

        plain = part(plainly, values) if rule.reuses else None
        with torch.no_grad():
            value = plainly(values) if plain is None else plain.z.detach().clone()
        channels_second = value.dim() == (2 if call.function in catalogue.LINEAR else weight.dim())
        step = Weighted(linear, rule, plain, takes_norm=channels_second and call.function not in catalogue.TRANSPOSED)
        if call.function in catalogue.LINEAR:
            step.make_ready()  # While whatever makes the batch invariant is still there.
        return node(step, value, input)

    def _batch_norm(self, call: whylight.FunctionCall) -> Tensor:
        """Make the normalisation part of the layer before it; if there is none, it is an affine function of its own."""
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        input, mean, variance, weight, bias, training, _, eps = (call.argument(n, name) for n, name in enumerate(names))
        if training or mean is None or variance is None:
            raise _refused(call, "it normalises by the statistics of the batch")
        input = input if input.requires_grad else input.detach()
        scale = (variance.to(input.dtype) + (1e-5 if eps is None else eps)).rsqrt()
        scale = scale if weight is None else scale * weight.to(input.dtype)
        shift = -mean.to(input.dtype) * scale if bias is None else bias.to(input.dtype) - mean.to(input.dtype) * scale
        layers = layers_behind(input.grad_fn)
        if layers and not any(layer.taken or layer.merged or not layer.takes_norm for layer in layers):
            for layer in layers:
                layer.merge(scale, shift)
                layer.make_ready()
            return passing(call_value(call), input)
        for layer in layers:
            layer.take()
        epsilon = self.composite.affine_epsilon(call.layer)
        if epsilon is None:
            return passing(call_value(call), input)
        across = (1, -1, *(1,) * (input.dim() - 2))
        affine = part(lambda leaf: leaf * scale.view(across) + shift.view(across), input)
        return node(Step(Proportional((affine,), epsilon)), affine.z.detach().clone(), input)

    def _proportional(self, call: whylight.FunctionCall) -> Tensor:
        carriers = list(_carriers([*call.args, *call.kwargs.values()]))
        before_all = call.function in catalogue.AFFINE and not any(is_behind_weights(one.grad_fn) for one in carriers)
        if len(carriers) == 1 and before_all and self.composite.affine is None:
            return passing(call_value(call), carriers[0])  # The model changes the units of its input.
        return proportional(call, self.composite.weightless)

    def _activation(self, call: whylight.FunctionCall) -> Tensor:
        return passing(call_value(call), _only_carrier(call))

    def _gate(self, call: whylight.FunctionCall) -> Tensor:
        return passing(call_value(call), _only_carrier(call), gate=True)

    def _product(self, call: whylight.FunctionCall) -> Tensor:
        """All relevance to the signal, none to what it is multiplied by; half each, if none is known to be a gate."""
        one, other = call.argument(0, "input"), call.argument(1, "other")
        pair = [factor for factor in (one, other) if isinstance(factor, Tensor) and factor.requires_grad]
        if len(pair) == 1:
            return passing(call_value(call), pair[0])
        gates = [is_gate(factor.grad_fn) for factor in pair]
        if gates[0] == gates[1]:
            gates = [factor.numel() < max(p.numel() for p in pair) for factor in pair]
        if gates[0] != gates[1]:
            return passing(call_value(call), pair[gates.index(False)])
        return attention.product(call.function, one, other, self.composite.weightless)

    def _quotient(self, call: whylight.FunctionCall) -> Tensor:
        numerator = call.argument(0, "input")
        if not (isinstance(numerator, Tensor) and numerator.requires_grad):
            raise _refused(call, "it divides by what it computes from the input")
        return passing(call_value(call), numerator)

    def _matrix_product(self, call: whylight.FunctionCall) -> Tensor:
        factors = list(_carriers([*call.args, *call.kwargs.values()]))
        if len(factors) == 1:
            return self._proportional(call)
        if len(call.args) != 2 or call.kwargs:
            raise _refused(call)
        return attention.product(call.function, *call.args, self.composite.weightless)

    def _softmax(self, call: whylight.FunctionCall) -> Tensor:
        return attention.softmax(call_value(call), _only_carrier(call), call.argument(1, "dim"))

    def _attention(self, call: whylight.FunctionCall) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        query, key, value, mask, _, causal, scale, grouped = (call.argument(n, name) for n, name in enumerate(names))
        if causal or grouped:
            raise _refused(call)
        return attention.attend(query, key, value, mask, scale, self.composite.weightless)

    def _layer_norm(self, call: whylight.FunctionCall) -> Tensor:
        input = call.argument(0, "input")
        return attention.layer_norm(
            input,
            tuple(range(-len(call.argument(1, "normalized_shape")), 0)),
            call.argument(2, "weight"),
            call.argument(3, "bias"),
            call.argument(4, "eps", 1e-5),
            self.composite.weightless,
        )


BLOCK_BYTES = 32 << 20
"""In blocks of how many bytes the weights of a linear layer are made into others."""

_BOUNDS = "whylight_relevance_bounds"


def _is_given(made: Node | None) -> bool:
    """Whether a tensor is the model's input, as it came or in the layout and type that the server gave it."""
    while made is not None and made.name() in ("ToCopyBackward0", "CloneBackward0"):
        made = made.next_functions[0][0]
    return made is None or made.name().endswith("AccumulateGrad")


def _with(bounds: Iterator[Tensor], arguments: Iterable[Any]) -> Iterator[Any]:
    """Put bounds in the places of the tensors that they bound."""
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.requires_grad:
            yield next(bounds)
        elif isinstance(argument, list | tuple) and any(True for _ in _carriers(argument)):
            yield list(_with(bounds, argument))
        else:
            yield argument


def call_value(call: whylight.FunctionCall) -> Callable[[], Tensor]:
    """Return what computes the value of a call, in one type throughout."""

    def value() -> Tensor:
        result: Tensor = call.proceed()
        return result

    return value


def proportional(call: whylight.FunctionCall, epsilon: float) -> Tensor:
    """Return the value of a linear function, whose relevance goes to its arguments by what they contribute."""
    inputs = list(_carriers([*call.args, *call.kwargs.values()]))

    def value(*leaves: Tensor) -> Tensor:
        waiting = iter(leaves)

        def leaf_for(argument: Any) -> Any:
            if isinstance(argument, Tensor) and argument.requires_grad:
                return next(waiting)
            if isinstance(argument, list | tuple):
                return type(argument)(map(leaf_for, argument))
            return argument

        args = [leaf_for(argument) for argument in call.args]
        result: Tensor = call.function(*args, **{name: leaf_for(given) for name, given in call.kwargs.items()})
        return result

    computed = part(value, *inputs)
    return node(Step(Proportional((computed,), epsilon)), computed.z.detach().clone(), *inputs)


def _carriers(values: Any) -> Iterator[Tensor]:
    """Return the tensors that relevance could go back to, in the order of arguments."""
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                yield value
        elif isinstance(value, list | tuple):
            yield from _carriers(value)


def _only_carrier(call: whylight.FunctionCall) -> Tensor:
    carriers = list(_carriers([*call.args, *call.kwargs.values()]))
    if len(carriers) != 1:
        raise _refused(call)
    return carriers[0]


def _in_place(call: whylight.FunctionCall) -> bool:
    name = getattr(call.function, "__name__", "")
    if call.function in catalogue.ROUTING:
        return False
    return (
        bool(call.kwargs.get("inplace", False))
        or call.in_place
        or call.function in catalogue.OUT_OF_PLACE
        or (name.endswith("_") and not name.endswith("__"))
    )


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _refused(call: whylight.FunctionCall, why: str = "") -> whylight.Unsupported:
    name = getattr(call.function, "__name__", str(call.function))
    place = f"layer {call.layer!r}" if call.layer else "the model, outside its layers,"
    reason = f": {why}" if why else ", for which no rule is known"
    return whylight.Unsupported(f"relevance cannot go back: {place} calls {name!r}{reason}", field="model")


def _ways() -> dict[Callable[..., Any], Callable[[Propagation, whylight.FunctionCall], Tensor]]:
    kinds: list[tuple[frozenset[Callable[..., Any]], Callable[[Propagation, whylight.FunctionCall], Tensor]]] = [
        (catalogue.LINEAR | catalogue.CONVOLUTIONS | catalogue.TRANSPOSED, Propagation._weighted),
        (catalogue.PROPORTIONAL, Propagation._proportional),
        (catalogue.ACTIVATIONS, Propagation._activation),
        (catalogue.GATES, Propagation._gate),
        (catalogue.PRODUCTS, Propagation._product),
        (catalogue.QUOTIENTS, Propagation._quotient),
        (catalogue.MATRIX_PRODUCTS, Propagation._matrix_product),
        (catalogue.SOFTMAX, Propagation._softmax),
        (catalogue.ATTENTION, Propagation._attention),
        (catalogue.LAYER_NORM, Propagation._layer_norm),
    ]
    return {function: way for functions, way in kinds for function in functions}


_WAYS = _ways()
