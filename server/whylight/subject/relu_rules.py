"""The two other ways back through ReLU, guided and deconvnet; knows no model, no layer and no method.

Both take every ReLU over, however it is called, and ReLU6 (any `hardtanh` from 0 on) likewise: where it is clipped its
slope is 0, and so is what goes back, but for the deconvnet, whose way back does not ask what went forward. Activations
that are not ReLU (SiLU, GELU, hardswish, sigmoid, leaky ReLU) keep their own derivative, and so does a maximum with 0
that is written as `clamp` or `maximum`. Captum and pytorch-grad-cam replace `nn.ReLU` modules only and leave ReLU6 as
it is, without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whylight.subject.backward_rule import BackwardRule, FunctionCall


@dataclass(frozen=True)
class GuidedRelu(BackwardRule):
    """Gradient × (output > 0) × (gradient > 0): only what excites goes back, through units that were active.

    Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015, Figure 1 c.
    """

    @property
    def keeps_values(self) -> bool:
        """Yes."""
        return True

    def call(self, call: FunctionCall) -> Any:
        """Take ReLU and ReLU6 over."""
        return _take_over(call, _Guided)


@dataclass(frozen=True)
class DeconvnetRelu(BackwardRule):
    """Gradient × (gradient > 0): ReLU on the way back too, whatever its input was.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014; as the gradient's rule in
    Springenberg et al. (2015), Figure 1 c.
    """

    @property
    def keeps_values(self) -> bool:
        """Yes."""
        return True

    def call(self, call: FunctionCall) -> Any:
        """Take ReLU and ReLU6 over."""
        return _take_over(call, _Deconvnet)


def _take_over(call: FunctionCall, function: type[_Relu]) -> Any:
    if call.is_relu or call.ceiling is not None:
        return function.apply(call.argument(0, "input"), call.ceiling, call.in_place)
    return call.proceed()


class _Relu(torch.autograd.Function):
    """The values of ReLU, in place where it works so: whoever else holds the tensor sees what it would."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, ceiling: float | None, in_place: bool) -> Tensor:
        """Return ``min(max(input, 0), ceiling)``."""
        if in_place:
            ctx.mark_dirty(input)
            output = input.relu_() if ceiling is None else input.clamp_(0, ceiling)
        else:
            output = input.relu() if ceiling is None else input.clamp(0, ceiling)
        ctx.ceiling = ceiling
        return output


class _Guided(_Relu):
    @staticmethod
    def forward(ctx: Any, input: Tensor, ceiling: float | None, in_place: bool) -> Tensor:
        output = _Relu.forward(ctx, input, ceiling, in_place)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (output,) = ctx.saved_tensors
        if ctx.ceiling is None:
            return torch.ops.aten.threshold_backward(gradient.relu(), output, 0), None, None
        return torch.ops.aten.hardtanh_backward(gradient.relu(), output, 0, ctx.ceiling), None, None


class _Deconvnet(_Relu):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.relu(), None, None
