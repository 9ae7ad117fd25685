"""Which part of the input a unit of a network can see at all, from its structure alone; knows no weights and no method.

A run under `Structure` computes nothing: every function gives ones of its own shape, and hands each gradient back to
every element that its result could depend on, whatever the weights. Behind it, the input's gradient at a unit is not 0
exactly on the unit's receptive field. Gradients are made 0 or 1 again at every step, so that none dies out on its way
through a deep network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import whylight


@dataclass(frozen=True)
class Structure(whylight.BackwardRule):
    """Lets every gradient back to all that a result can depend on.

    Convolutions and pooling reach all their taps, also those whose weight is 0; linear layers and normalisation over
    positions or channels reach all that they sum over; activations reach their element; sums and products all their
    operands. Other functions go back as they are.
    """

    def call(self, call: whylight.FunctionCall) -> Any:
        """Return ones, and the way back to what they could depend on."""
        if call.function is F.multi_head_attention_forward:
            return call.descend()
        reach = _REACHES.get(getattr(call.function, "__name__", ""))
        input = call.argument(0, "input")
        if reach is None or not isinstance(input, Tensor) or not input.is_floating_point():
            return call.proceed()
        return reach(call)


class _Ones(torch.autograd.Function):
    """Ones; back goes 1 where the gradient is not 0."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return torch.ones_like(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient != 0).to(gradient.dtype)


def _ones(values: Tensor) -> Tensor:
    made: Tensor = _Ones.apply(values)
    return made


def _element(call: whylight.FunctionCall) -> Tensor:
    return _ones(call.argument(0, "input"))


def _sum(call: whylight.FunctionCall) -> Any:
    """Add whatever is subtracted: the two sides of a difference must not cancel."""
    first, second = call.argument(0, "input"), call.argument(1, "other")
    return _ones(torch.add(first, second) if isinstance(second, Tensor) else first)


def _product(call: whylight.FunctionCall) -> Any:
    first, second = call.argument(0, "input"), call.argument(1, "other")
    if not isinstance(second, Tensor):
        return _ones(first)
    return _ones(_ones(first) + _ones(second))


def _linear(call: whylight.FunctionCall) -> Tensor:
    input, weight = call.argument(0, "input"), call.argument(1, "weight")
    return _ones(input.mean(-1, keepdim=True).expand(*input.shape[:-1], weight.shape[0]))


def _convolution(call: whylight.FunctionCall, *, transposed: bool = False) -> Tensor:
    """Convolve with ones, each group's channels summed before: what any output channel of the group can see."""
    input, weight = _ones(call.argument(0, "input")), call.argument(1, "weight")
    stride, padding = call.argument(3, "stride", 1), call.argument(4, "padding", 0)
    if transposed:
        outer, groups = call.argument(5, "output_padding", 0), call.argument(6, "groups", 1)
        dilation = call.argument(7, "dilation", 1)
        channels = weight.shape[1]
    else:
        dilation, groups = call.argument(5, "dilation", 1), call.argument(6, "groups", 1)
        channels = weight.shape[0] // groups
    kernel = torch.ones(groups, 1, *weight.shape[2:], dtype=input.dtype, device=input.device)
    summed = input.reshape(len(input), groups, -1, *input.shape[2:]).mean(2)
    if transposed:
        reached = F.conv_transpose2d(summed, kernel, None, stride, padding, outer, groups, dilation)
    else:
        reached = F.conv2d(summed, kernel, None, stride, padding, dilation, groups)
    return _ones(reached.repeat_interleave(channels, 1))


def _max_pool(call: whylight.FunctionCall) -> Any:
    """Reach all of each window, not only its maximum; padding, dilation and rounding are those of the function."""
    input = call.argument(0, "input")
    with torch.no_grad():
        real = call.proceed()
    with_indices = isinstance(real, tuple)
    shape = (real[0] if with_indices else real).shape
    kernel = _pair(call.argument(1, "kernel_size"))
    stride = _pair(call.argument(2, "stride") or kernel)
    padding, dilation = _pair(call.argument(3, "padding", 0)), _pair(call.argument(4, "dilation", 1))
    beyond = [
        (out - 1) * step + far * (taps - 1) + 1 - length - before
        for out, step, far, taps, length, before in zip(
            shape[-2:], stride, dilation, kernel, input.shape[-2:], padding, strict=True
        )
    ]
    padded = F.pad(_ones(input), (padding[1], beyond[1], padding[0], beyond[0]))
    ones = torch.ones(input.shape[-3], 1, *kernel, dtype=input.dtype, device=input.device)
    reached = _ones(F.conv2d(padded, ones, None, stride, 0, dilation, input.shape[-3]))
    return (reached, real[1]) if with_indices else reached


def _adaptive_max_pool(call: whylight.FunctionCall) -> Any:
    with torch.no_grad():
        real = call.proceed()
    reached = _ones(F.adaptive_avg_pool2d(_ones(call.argument(0, "input")), call.argument(1, "output_size")))
    return (reached, real[1]) if isinstance(real, tuple) else reached


def _average(call: whylight.FunctionCall) -> Any:
    """Leave what is linear with weights of one sign as it is, but begin with ones."""
    return _ones(call.function(_ones(call.argument(0, "input")), *call.args[1:], **_others(call)))


def _mixed(axes: Callable[[whylight.FunctionCall], tuple[int, ...]], call: whylight.FunctionCall) -> Tensor:
    """Reach everything along some axes, as normalisation and softmax do."""
    input = call.argument(0, "input")
    return _ones(_ones(input).mean(axes(call), keepdim=True).expand_as(input))


def _normalised(call: whylight.FunctionCall) -> tuple[int, ...]:
    return tuple(range(-len(call.argument(1, "normalized_shape")), 0))


def _softmaxed(call: whylight.FunctionCall) -> tuple[int, ...]:
    return (call.argument(1, "dim", -1),)


def _group_norm(call: whylight.FunctionCall) -> Tensor:
    input = call.argument(0, "input")
    groups = input.reshape(len(input), call.argument(1, "num_groups"), -1)
    return _ones(_ones(groups).mean(2, keepdim=True).expand_as(groups).reshape(input.shape))


def _instance_norm(call: whylight.FunctionCall) -> Tensor:
    return _mixed(lambda _: tuple(range(2, call.argument(0, "input").dim())), call)


def _others(call: whylight.FunctionCall) -> dict[str, Any]:
    return {name: value for name, value in call.kwargs.items() if name != "input"}


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first


_ELEMENTS = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu"),
    *("gelu", "silu", "mish", "softplus", "softsign", "tanh", "sigmoid", "hardsigmoid"),
    *("hardswish", "hardtanh", "hardshrink", "softshrink", "logsigmoid", "log_sigmoid", "threshold"),
    *("clamp", "clamp_min", "clamp_max", "clip", "neg", "__neg__", "negative", "abs", "exp", "log", "sqrt"),
    *("rsqrt", "square", "pow", "__pow__", "batch_norm", "dropout", "dropout2d", "feature_dropout", "alpha_dropout"),
)
_SUMS = ("add", "__add__", "__radd__", "__iadd__", "sub", "subtract", "__sub__", "__rsub__", "__isub__")
_PRODUCTS = (
    *("mul", "multiply", "__mul__", "__rmul__", "__imul__", "div", "div_", "divide", "true_divide"),
    *("__truediv__", "__itruediv__", "__rtruediv__", "maximum", "minimum"),
)
_AVERAGES = ("avg_pool2d", "adaptive_avg_pool2d", "lp_pool2d", "mean", "sum", "interpolate", "upsample")

_REACHES: dict[str, Callable[[whylight.FunctionCall], Any]] = {
    **dict.fromkeys(_ELEMENTS, _element),
    **dict.fromkeys(_SUMS, _sum),
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_AVERAGES, _average),
    **dict.fromkeys(("max_pool2d", "_max_pool2d", "max_pool2d_with_indices"), _max_pool),
    **dict.fromkeys(("adaptive_max_pool2d", "adaptive_max_pool2d_with_indices"), _adaptive_max_pool),
    **dict.fromkeys(("softmax", "log_softmax"), partial(_mixed, _softmaxed)),
    **dict.fromkeys(("layer_norm", "rms_norm"), partial(_mixed, _normalised)),
    "linear": _linear,
    "conv2d": _convolution,
    "conv_transpose2d": partial(_convolution, transposed=True),
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}


def receptive_fields(
    subject: whylight.Subject, like: Tensor, units: list[whylight.Neuron], cancel: Any
) -> list[tuple[int, int, int, int]]:
    """Return (left, top, right, bottom) of what each unit sees of an input `[1, C, H, W]` such as `like`.

    In whole pixels, right and bottom exclusive, clipped to the input.

    Raises:
        Unsupported: the unit depends on nothing of the input.
    """
    rows = tuple(range(len(units)))
    batch = whylight.Batch(like.expand(len(units), -1, -1, -1), tuple(units), rows, cancel, (0,) * len(units))
    seen = (subject.input_gradients(batch, rule=Structure()) != 0).any(1)
    boxes = []
    for unit, support in zip(units, seen, strict=True):
        down, across = support.any(1).nonzero().flatten().tolist(), support.any(0).nonzero().flatten().tolist()
        if not down:
            raise whylight.Unsupported(
                f"nothing of the input reaches layer {unit.layer!r} by functions that are known", field="options.layer"
            )
        boxes.append((across[0], down[0], across[-1] + 1, down[-1] + 1))
    return boxes
