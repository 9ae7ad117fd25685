"""DeepLIFT's rescale rule as a way back through a network; knows neither baselines nor maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import whylight

Function = Callable[..., Any]

_NUMBERWISE = (
    "abs celu clamp clamp_max clamp_min cos elu erf exp gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log "
    "logsigmoid mish pow prelu reciprocal relu relu6 rsqrt selu sigmoid silu sin softplus softshrink softsign sqrt "
    "square tanh tanhshrink threshold"
)
_IN_PLACE_POSITION = {"elu": 2, "celu": 2, "leaky_relu": 2, "threshold": 3, "hardtanh": 3}
_HOMES = (torch, torch.Tensor, F, torch._C._nn)


def _elementwise() -> tuple[dict[Function, str], dict[Function, Function]]:
    """Return the functions of one number, with their names, and for those that write over it what does not."""
    found: dict[Function, str] = {torch.Tensor.__pow__: "pow", torch.Tensor.__rdiv__: "reciprocal"}
    written: dict[Function, Function] = {}
    for home in _HOMES:
        for name in _NUMBERWISE.split():
            if hasattr(home, name):
                found[getattr(home, name)] = name
            over = getattr(home, name + "_", None)
            if over is not None:
                plain = next(getattr(place, name) for place in (home, *_HOMES) if hasattr(place, name))
                found[over], written[over] = name, plain
    return found, written


_ELEMENTWISE, _WRITING_OVER = _elementwise()
_MAXIMA = frozenset(
    {
        *(getattr(F, name) for name in ("max_pool1d", "max_pool2d", "max_pool3d")),
        *(getattr(torch, name) for name in ("max_pool1d", "max_pool2d", "max_pool3d")),
        *(getattr(F, name) for name in ("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")),
        torch.amax,
        torch.Tensor.amax,
    }
)
_PRODUCTS: dict[Function, Function] = {
    **dict.fromkeys((torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.multiply), torch.mul),
    **dict.fromkeys((torch.Tensor.mul_, torch.Tensor.__imul__), torch.mul),
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__), torch.matmul),
    **dict.fromkeys((torch.bmm, torch.Tensor.bmm), torch.matmul),
}
_PRODUCTS_IN_PLACE = frozenset({torch.Tensor.mul_, torch.Tensor.__imul__})
_DESCENDED = frozenset({F.multi_head_attention_forward})


_SOFTMAX = frozenset({F.softmax, torch.softmax, torch.Tensor.softmax})
_TAKEN_APART = frozenset({*_SOFTMAX, F.layer_norm, F.scaled_dot_product_attention})
_OF_ONE: frozenset[Any] = _MAXIMA | _SOFTMAX | {F.layer_norm}
_OPERANDS: dict[Function, tuple[str, ...]] = {
    **dict.fromkeys(_ELEMENTWISE, ("input",)),
    **dict.fromkeys(_OF_ONE, ("input",)),
    **dict.fromkeys(_PRODUCTS, ("input", "other")),
    F.scaled_dot_product_attention: ("query", "key", "value"),
}
"""What is not linear, and which arguments of it may depend on the input."""


@dataclass(frozen=True)
class _Seen:
    """A function that a run called, with its operands; those that are no tensors are None."""

    function: Function
    operands: tuple[Tensor | None, ...]
    versions: tuple[int, ...]


@dataclass(eq=False)
class Recording(whylight.BackwardRule):
    """Leaves a run of the baselines as it is, and keeps the operands of what is not linear, for one `Rescale`."""

    seen: list[_Seen] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether everything is computed under `Rescale` as without it, to the bit."""
        return not any(one.function in _TAKEN_APART for one in self.seen)

    def call(self, call: whylight.FunctionCall) -> Any:
        """Keep the operands."""
        names = _OPERANDS.get(call.function)
        if names is None:
            return call.descend() if call.function in _DESCENDED else call.proceed()
        written = call.function in _WRITING_OVER or call.function in _PRODUCTS_IN_PLACE or _in_place(call)
        operands = []
        for position, name in enumerate(names):
            value = call.argument(position, name)
            kept = value if isinstance(value, Tensor) else None
            operands.append(kept.clone() if kept is not None and written and position == 0 else kept)
        versions = tuple(-1 if one is None else one._version for one in operands)
        self.seen.append(_Seen(call.function, tuple(operands), versions))
        return call.proceed()


@dataclass(eq=False)
class Rescale(whylight.BackwardRule):
    """Multipliers in place of derivatives: `Δoutput / Δinput` between a run of inputs and one of their baselines.

    It is for one run of as many inputs as `baselines`, which it uses up, was made with.

    * Functions of one number (ReLU and its relatives, sigmoid, tanh, GELU, SiLU, exponential …): the paper's rescale
      rule; where `|Δinput|` is not above `smallest`, the derivative.
    * Max pooling: what the maximum rose by goes to where the input's maximum is, and what it fell by to where the
      baseline's is, over the difference there.
    * Products of two things that depend on the input (gates of squeeze-and-excitation, attention): each factor with
      the mean of the other, which is exact: `Δ(ab) = Δa·(b + b')/2 + Δb·(a + a')/2`.
    * Softmax and layer normalisation: taken apart into the above.

    All else is taken to be linear, with its derivative; where it is not, multipliers do not sum to the difference.
    """

    smallest: float
    baselines: Recording

    def __post_init__(self) -> None:
        self._exact = self.baselines.exact
        self.baselines.seen.reverse()

    @property
    def keeps_values(self) -> bool:
        """Whether nothing was taken apart."""
        return self._exact

    def call(self, call: whylight.FunctionCall) -> Any:
        """Take over what is not linear.

        Raises:
            Unsupported: the model computes in another way for the input than for the baseline.
        """
        function = call.function
        if function not in _OPERANDS:
            return call.descend() if function in _DESCENDED else call.proceed()
        there = self._baseline_of(call)
        if not torch.is_grad_enabled():
            return call.proceed()
        if function in _PRODUCTS:
            return self._product(call, there)
        if function is F.scaled_dot_product_attention:
            return self._attention(call, there)
        if not _moves(call.argument(0, "input")) or there[0] is None:
            return call.proceed()
        if function in _ELEMENTWISE:
            return self._of_one_number(call, there[0])
        if function in _MAXIMA:
            return call.proceed() if call.kwargs.get("return_indices") else self._maximum(call, there[0])
        if function in _SOFTMAX:
            return self._softmax(call, there[0])
        return self._layer_norm(call, there[0])

    def _baseline_of(self, call: whylight.FunctionCall) -> tuple[Tensor | None, ...]:
        """Return the operands that the same call had for the baselines."""
        kept = self.baselines.seen.pop() if self.baselines.seen else None
        names = _OPERANDS[call.function]
        given = [call.argument(position, name) for position, name in enumerate(names)]
        if kept is None or kept.function is not call.function:
            raise _refused(call, "the model computes in another way for the input than for the baseline")
        for mine, theirs, version in zip(given, kept.operands, kept.versions, strict=True):
            if theirs is None:
                continue
            if not isinstance(mine, Tensor) or mine.shape != theirs.shape:
                raise _refused(call, "the model computes in another way for the input than for the baseline")
            if theirs._version != version:
                raise _refused(call, "the model changes in place what it still needs")
        return kept.operands

    def of(self, function: Function, here: Tensor, there: Tensor) -> Tensor:
        """Return a function of each number of `here`, whose multipliers are those of the way from `there`."""
        values = here.detach()
        with torch.no_grad():
            output = function(values)
            way = _less(values, there)
            multipliers = _less(output, function(there)).div_(way).to(output.dtype)
            near = way.abs_() <= self.smallest
            some = bool(near.any())
        if some:
            leaf, again = _with_graph(function, values)
            (slopes,) = torch.autograd.grad(again, leaf, torch.ones_like(again))
            multipliers = torch.where(near, slopes, multipliers)
        scaled: Tensor = _Scaled.apply(here, [output], multipliers)
        return scaled

    def _of_one_number(self, call: whylight.FunctionCall, there: Tensor) -> Any:
        input = call.argument(0, "input")
        if any(_moves(value) for value in (*call.args[1:], *(v for k, v in call.kwargs.items() if k != "input"))):
            return call.proceed()
        if call.function in _WRITING_OVER:
            plain = _rest(call, _WRITING_OVER[call.function])
            return input.copy_(self.of(plain, input.clone(), there))
        if _in_place(call):
            position = _IN_PLACE_POSITION.get(_ELEMENTWISE[call.function], 1)
            args = [*call.args[1:position], *call.args[position + 1 :]]
            named = {key: value for key, value in call.kwargs.items() if key not in ("inplace", "input")}
            return input.copy_(self.of(lambda given: call.function(given, *args, **named), input.clone(), there))
        return self.of(_rest(call), input, there)

    def _maximum(self, call: whylight.FunctionCall, there: Tensor) -> Tensor:
        maxima: Tensor = _Maxima.apply(call.argument(0, "input"), there, _rest(call), self.smallest)
        return maxima

    def _product(self, call: whylight.FunctionCall, there: tuple[Tensor | None, ...]) -> Any:
        one, other = call.argument(0, "input"), call.argument(1, "other")
        if not (_moves(one) and _moves(other)) or len(one) != len(other) or one.dim() != other.dim():
            return call.proceed()
        if call.function in _PRODUCTS_IN_PLACE:
            return one.copy_(_product(torch.mul, one.clone(), other, *there))
        return _product(_PRODUCTS[call.function], one, other, *there)

    def _softmax(self, call: whylight.FunctionCall, there: Tensor) -> Tensor:
        input, dim = call.argument(0, "input"), int(call.argument(1, "dim"))
        dtype = call.kwargs.get("dtype") or input.dtype
        return self.softmax(input.to(dtype), there.to(dtype), dim)[0]

    def softmax(self, here: Tensor, there: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Return the softmax of both, its exponentials, their sum's reciprocal and the product each under its rule."""
        # Both are shifted alike: the shift cancels, and is no function of the input then.
        highest = torch.maximum(here.detach().amax(dim, keepdim=True), there.amax(dim, keepdim=True))
        powers, others = self.of(torch.exp, here - highest, there - highest), torch.exp(there - highest)
        sums = others.sum(dim, keepdim=True)
        inverse, inverses = self.of(torch.reciprocal, powers.sum(dim, keepdim=True), sums), torch.reciprocal(sums)
        return _product(torch.mul, powers, inverse, others, inverses), others * inverses

    def _layer_norm(self, call: whylight.FunctionCall, there: Tensor) -> Tensor:
        input, shape = call.argument(0, "input"), call.argument(1, "normalized_shape")
        weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
        eps = call.argument(4, "eps", 1e-5)
        dims = tuple(range(-len(shape), 0))

        def inverse(variance: Tensor) -> Tensor:
            return torch.rsqrt(variance + eps)

        centred, other = (one - one.mean(dims, keepdim=True) for one in (input, there))
        variance = self.of(torch.square, centred, other).mean(dims, keepdim=True)
        variances = other.square().mean(dims, keepdim=True)
        scale = self.of(inverse, variance, variances)
        normal = _product(torch.mul, centred, scale, other, inverse(variances))
        normal = normal if weight is None else normal * weight
        return normal if bias is None else normal + bias

    def _attention(self, call: whylight.FunctionCall, there: tuple[Tensor | None, ...]) -> Any:
        query, key, value = (call.argument(k, name) for k, name in enumerate(("query", "key", "value")))
        mask, causal = call.argument(3, "attn_mask"), call.argument(5, "is_causal", False)
        scale = call.kwargs.get("scale") or query.shape[-1] ** -0.5
        if mask is not None or causal or call.kwargs.get("enable_gqa") or not (_moves(query) and _moves(value)):
            return call.proceed()
        queries, keys, values = there
        if queries is None or keys is None or values is None:
            raise _refused(call, "the model computes in another way for the input than for the baseline")
        queries, turned = queries * scale, keys.transpose(-2, -1)
        logits = _product(torch.matmul, query * scale, key.transpose(-2, -1), queries, turned)
        weights, others = self.softmax(logits, _multiplied(torch.matmul, queries, turned), -1)
        return _product(torch.matmul, weights, value, others, values)


def _refused(call: whylight.FunctionCall, why: str) -> whylight.Unsupported:
    place = f"layer {call.layer!r}" if call.layer else "the model, outside its layers,"
    name = getattr(call.function, "__name__", str(call.function))
    return whylight.Unsupported(f"differences cannot go back: {place} calls {name!r}: {why}", field="model")


def _in_place(call: whylight.FunctionCall) -> bool:
    """Whether a function of `torch.nn.functional` is told to write over its input."""
    name = _ELEMENTWISE.get(call.function, "")
    if call.function is not getattr(F, name, None):
        return False
    return call.argument(_IN_PLACE_POSITION.get(name, 1), "inplace", False) is True


def _moves(value: Any) -> bool:
    """Whether a value depends on the input."""
    return isinstance(value, Tensor) and value.requires_grad and value.dim() > 0


def _rest(call: whylight.FunctionCall, function: Function | None = None) -> Function:
    """Return the function of the first argument alone."""
    named = {key: value for key, value in call.kwargs.items() if key != "input"}
    args = call.args[1:]
    return partial(_called, function or call.function, args, named)


def _called(function: Function, args: tuple[Any, ...], named: dict[str, Any], input: Tensor) -> Any:
    return function(input, *args, **named)


def _less(one: Tensor, other: Tensor) -> Tensor:
    """Return the difference, at least in float32."""
    dtype = torch.promote_types(one.dtype, torch.float32)
    return one.to(dtype) - other.to(dtype)


class _Scaled(torch.autograd.Function):
    """A value that was computed before, with the multipliers of what it was computed of."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, output: list[Tensor], multipliers: Tensor) -> Tensor:
        ctx.save_for_backward(multipliers)
        return output.pop()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (multipliers,) = ctx.saved_tensors
        return gradient * multipliers, None, None


class _Maxima(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, here: Tensor, there: Tensor, function: Function, smallest: float) -> Tensor:
        ctx.function, ctx.smallest = function, smallest
        ctx.save_for_backward(here, there)
        output: Tensor = function(here)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        here, there = ctx.saved_tensors
        leaf, maximum = _with_graph(ctx.function, here)
        other, lower = _with_graph(ctx.function, there)
        highest = torch.maximum(maximum.detach(), lower.detach())
        (risen,) = torch.autograd.grad(maximum, leaf, gradient * (highest - lower.detach()), retain_graph=True)
        (fallen,) = torch.autograd.grad(lower, other, gradient * (maximum.detach() - highest))
        way = _less(here, there)
        multiplied = (risen + fallen).div(way).to(gradient.dtype)
        near = way.abs_() <= ctx.smallest
        if bool(near.any()):
            (plain,) = torch.autograd.grad(maximum, leaf, gradient)
            multiplied = torch.where(near, plain, multiplied)
        return multiplied, None, None, None


def _product(function: Function, one: Tensor, other: Tensor, *baselines: Tensor | None) -> Tensor:
    product: Tensor = _Product.apply(function, one, other, *baselines)
    return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Function, one: Tensor, other: Tensor, one_there: Tensor, other_there: Tensor
    ) -> Tensor:
        ctx.function = function
        ctx.save_for_backward((one + one_there) / 2, (other + other_there) / 2)
        return _multiplied(function, one, other)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, None, None]:
        one, other = ctx.saved_tensors
        leaf, output = _with_graph(lambda given: _multiplied(ctx.function, given, other), one)
        (to_one,) = torch.autograd.grad(output, leaf, gradient)
        leaf, output = _with_graph(lambda given: _multiplied(ctx.function, one, given), other)
        (to_other,) = torch.autograd.grad(output, leaf, gradient)
        return None, to_one, to_other, None, None


def _multiplied(function: Function, one: Tensor, other: Tensor) -> Tensor:
    """Multiply; on a CPU the matrices of each input by themselves, for there the bits of many depend on how many."""
    if function is torch.mul or one.is_cuda or one.dim() < 3:
        product: Tensor = function(one, other)
        return product
    return torch.stack([function(a, b) for a, b in zip(one, other, strict=True)])


def _with_graph(function: Function, input: Tensor) -> tuple[Tensor, Tensor]:
    """Compute with a graph of its own."""
    with torch.enable_grad():
        leaf = input.detach().requires_grad_(True)
        return leaf, function(leaf)
