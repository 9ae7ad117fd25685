"""DeepLIFT's rescale rule as a way back through a network; knows neither baselines nor maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

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
    **dict.fromkeys((torch.bmm, torch.Tensor.bmm), torch.bmm),
}
_PRODUCTS_IN_PLACE = frozenset({torch.Tensor.mul_, torch.Tensor.__imul__})
_DESCENDED = frozenset({F.multi_head_attention_forward})


@dataclass(frozen=True)
class Rescale(whylight.BackwardRule):
    """Multipliers in place of derivatives: `Δoutput / Δinput` between the two halves of a pass.

    The first half of the rows are inputs, the second half, in the same order, the baselines that they are compared to.

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

    least_rows: ClassVar[int] = 2

    def call(self, call: whylight.FunctionCall) -> Any:
        """Take over what is not linear."""
        if not torch.is_grad_enabled():
            return call.proceed()
        if call.function in _ELEMENTWISE and _moves(call.argument(0, "input")):
            return self._of_one_number(call)
        if call.function in _MAXIMA and _moves(call.argument(0, "input")) and not call.kwargs.get("return_indices"):
            return self._paired(_Maxima, call.argument(0, "input"), _rest(call))
        if call.function in _PRODUCTS:
            return self._product(call)
        if call.function in _SOFTMAX and _moves(call.argument(0, "input")):
            return self._softmax(call)
        if call.function is F.layer_norm and _moves(call.argument(0, "input")):
            return self._layer_norm(call)
        if call.function is F.scaled_dot_product_attention:
            return self._attention(call)
        return call.descend() if call.function in _DESCENDED else call.proceed()

    def of(self, function: Function, input: Tensor) -> Tensor:
        """Return a function of each number of `input`, under the rule."""
        return self._paired(_OneNumber, input, function)

    def _of_one_number(self, call: whylight.FunctionCall) -> Any:
        input, name = call.argument(0, "input"), _ELEMENTWISE[call.function]
        if any(_moves(value) for value in (*call.args[1:], *(v for k, v in call.kwargs.items() if k != "input"))):
            return call.proceed()
        if call.function in _WRITING_OVER:
            plain = _rest(call, _WRITING_OVER[call.function])
            return input.copy_(self.of(plain, input.clone()))
        position = _IN_PLACE_POSITION.get(name, 1)
        if call.function is getattr(F, name, None) and call.argument(position, "inplace", False) is True:
            args = [*call.args[1:position], *call.args[position + 1 :]]
            named = {key: value for key, value in call.kwargs.items() if key not in ("inplace", "input")}
            return input.copy_(self.of(lambda given: call.function(given, *args, **named), input.clone()))
        return self.of(_rest(call), input)

    def _product(self, call: whylight.FunctionCall) -> Any:
        one, other = call.argument(0, "input"), call.argument(1, "other")
        if not (_moves(one) and _moves(other)) or len(one) != len(other) or one.dim() != other.dim():
            return call.proceed()
        if call.function in _PRODUCTS_IN_PLACE:
            return one.copy_(_Product.apply(torch.mul, one.clone(), other))
        return _Product.apply(_PRODUCTS[call.function], one, other)

    def _softmax(self, call: whylight.FunctionCall) -> Tensor:
        input, dim = call.argument(0, "input"), call.argument(1, "dim")
        dtype = call.kwargs.get("dtype")
        return self.softmax(input if dtype is None else input.to(dtype), int(dim))

    def softmax(self, input: Tensor, dim: int) -> Tensor:
        """Return the softmax, its exponentials, their sum's reciprocal and the product each under its rule."""
        # Both halves are shifted alike: the shift cancels, and is no function of the input then.
        highest = torch.stack(input.detach().amax(dim, keepdim=True).chunk(2)).amax(0)
        powers = self.of(torch.exp, input - torch.cat((highest, highest)))
        inverse = self.of(torch.reciprocal, powers.sum(dim, keepdim=True))
        product: Tensor = _Product.apply(torch.mul, powers, inverse)
        return product

    def _layer_norm(self, call: whylight.FunctionCall) -> Tensor:
        input, shape = call.argument(0, "input"), call.argument(1, "normalized_shape")
        weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
        eps = call.argument(4, "eps", 1e-5)
        dims = tuple(range(-len(shape), 0))
        centred = input - input.mean(dims, keepdim=True)
        variance = self.of(torch.square, centred).mean(dims, keepdim=True)
        normal: Tensor = _Product.apply(torch.mul, centred, self.of(lambda v: torch.rsqrt(v + eps), variance))
        normal = normal if weight is None else normal * weight
        return normal if bias is None else normal + bias

    def _attention(self, call: whylight.FunctionCall) -> Any:
        query, key, value = (call.argument(k, name) for k, name in enumerate(("query", "key", "value")))
        mask, causal = call.argument(3, "attn_mask"), call.argument(5, "is_causal", False)
        scale = call.kwargs.get("scale") or query.shape[-1] ** -0.5
        if mask is not None or causal or call.kwargs.get("enable_gqa") or not (_moves(query) and _moves(value)):
            return call.proceed()
        weights = self.softmax(_Product.apply(torch.matmul, query * scale, key.transpose(-2, -1)), -1)
        return _Product.apply(torch.matmul, weights, value)

    def _paired(self, kind: type[torch.autograd.Function], input: Tensor, function: Function) -> Tensor:
        output: Tensor = kind.apply(input, function, self.smallest)
        return output


_SOFTMAX = frozenset({F.softmax, torch.softmax, torch.Tensor.softmax})


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


def _of_inputs(gradient: Tensor) -> Tensor:
    """Return the gradient of both halves: targets are of the inputs, and nothing is asked of what goes to baselines."""
    return torch.cat((gradient, torch.zeros_like(gradient)))


class _OneNumber(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, function: Function, smallest: float) -> Tensor:
        ctx.function, ctx.smallest = function, smallest
        ctx.save_for_backward(input)
        output: Tensor = function(input)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (input,) = ctx.saved_tensors
        here, there = input.chunk(2)
        wanted = gradient.chunk(2)[0]
        leaf, output = _again(ctx.function, here)
        (plain,) = torch.autograd.grad(output, leaf, wanted)
        way = _less(here, there)
        multiplied = wanted * (_less(output.detach(), ctx.function(there)) / way).to(wanted.dtype)
        return _of_inputs(torch.where(way.abs() > ctx.smallest, multiplied, plain)), None, None


class _Maxima(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, function: Function, smallest: float) -> Tensor:
        ctx.function, ctx.smallest = function, smallest
        ctx.save_for_backward(input)
        output: Tensor = function(input)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (input,) = ctx.saved_tensors
        leaf, output = _again(ctx.function, input)
        here, there = output.detach().chunk(2)
        highest = torch.maximum(here, there)
        wanted = gradient.chunk(2)[0]
        risen, fallen = wanted * (highest - there), wanted * (here - highest)
        (placed,) = torch.autograd.grad(output, leaf, torch.cat((risen, fallen)), retain_graph=True)
        (plain,) = torch.autograd.grad(output, leaf, torch.cat((wanted, torch.zeros_like(wanted))))
        total = torch.stack(placed.chunk(2)).sum(0)
        way = _less(*input.chunk(2))
        multiplied = (total / way).to(gradient.dtype)
        return _of_inputs(torch.where(way.abs() > ctx.smallest, multiplied, plain.chunk(2)[0])), None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, one: Tensor, other: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(one, other)
        output: Tensor = function(one, other)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        one, other = ctx.saved_tensors
        leaf, output = _again(lambda given: ctx.function(given, _mean(other)), one)
        (to_one,) = torch.autograd.grad(output, leaf, gradient)
        leaf, output = _again(lambda given: ctx.function(_mean(one), given), other)
        (to_other,) = torch.autograd.grad(output, leaf, gradient)
        return None, to_one, to_other


def _mean(tensor: Tensor) -> Tensor:
    """Return the mean of both halves, for both."""
    mean = torch.stack(tensor.chunk(2)).mean(0)
    return torch.cat((mean, mean))


def _again(function: Function, input: Tensor) -> tuple[Tensor, Tensor]:
    """Compute once more, with a graph of its own: what is kept until then is the input alone."""
    with torch.enable_grad():
        leaf = input.detach().requires_grad_(True)
        return leaf, function(leaf)
