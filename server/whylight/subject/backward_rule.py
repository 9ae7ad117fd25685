"""Backward rules: taking single functions of torch out of one run's hands; knows no rule, no model and no method.

A rule belongs to a run, not to a model. While the run goes forward, every function that it calls (ReLU, convolution,
sum) comes to the rule, which gives something with another backward pass in its place, usually the value of a
`torch.autograd.Function`. Nothing of the model is touched, so runs under different rules never meet; functions called
as functions, in place, as methods or from modules used twice are all the same to it.
"""

from __future__ import annotations

import abc
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_RELU_IN_PLACE = frozenset({torch.relu_, torch.Tensor.relu_, F.relu_})
_RELU = frozenset({F.relu, torch.relu, torch.Tensor.relu, *_RELU_IN_PLACE})
_RELU6_IN_PLACE = frozenset({torch._C._nn.relu6_})
_HARDTANH_IN_PLACE = frozenset({F.hardtanh_})
_RELU6 = frozenset({F.relu6, torch._C._nn.relu6, *_RELU6_IN_PLACE})
_HARDTANH = frozenset({F.hardtanh, torch._C._nn.hardtanh, *_HARDTANH_IN_PLACE})


@dataclass(frozen=True)
class FunctionCall:
    """A function of torch that a run calls, with its arguments.

    `layer` is the name of the innermost layer that is running, empty outside all of them.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    layer: str
    _mode: _Intercepting = field(repr=False)

    @property
    def is_relu(self) -> bool:
        """Whether it is ReLU, however it is called."""
        return self.function in _RELU

    @property
    def ceiling(self) -> float | None:
        """Where a clipped ReLU stops rising: 6 for ReLU6, `max_val` for a hardtanh from 0 on; None if it is neither."""
        if self.function in _RELU6:
            return 6.0
        if self.function in _HARDTANH and self.argument(1, "min_val", -1.0) == 0:
            return float(self.argument(2, "max_val", 1.0))
        return None

    @property
    def in_place(self) -> bool:
        """Whether a ReLU, clipped or not, writes its result over its argument."""
        if self.function in _RELU_IN_PLACE | _RELU6_IN_PLACE | _HARDTANH_IN_PLACE:
            return True
        if self.function is F.hardtanh:
            return bool(self.argument(3, "inplace", False))
        return self.function in (F.relu, F.relu6) and bool(self.argument(1, "inplace", False))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument, given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def proceed(self) -> Any:
        """Return what the function gives of itself; what it calls does not come to the rule."""
        return self.function(*self.args, **self.kwargs)

    def descend(self) -> Any:
        """Return what the function gives of itself, where what it calls comes to the rule too.

        For functions that are written in Python, such as `F.multi_head_attention_forward`.

        Raises:
            TypeError: the function is not written in Python.
        """
        with self._mode:
            return _body(self.function)(*self.args, **self.kwargs)


class BackwardRule(abc.ABC):
    """Another way back through some functions. Holds no state of a run, so that many runs may share one rule.

    Rules that are equal and hash alike (a frozen dataclass) share what a batch already computed. One that must hold
    something of a run is made for that run, and equal to no other (``@dataclass(eq=False)``).
    """

    @property
    def keeps_values(self) -> bool:
        """Whether a run gives the very same bits under the rule as without it, so that its output serves others."""
        return False

    @abc.abstractmethod
    def call(self, call: FunctionCall) -> Any:
        """Return the value of a call: ``call.proceed()`` to leave it as it is.

        Raises:
            Unsupported: the rule has no way back through this function; name `call.layer`.
        """

    def seed(self, derivative: Tensor, value: Tensor) -> Tensor:
        """Return what goes back from the tensor that targets point into: by default, the targets' derivative there.

        `value` is that tensor, `derivative` is zero where no target points; both have all rows of a pass. For rules
        that hand back shares of the target's value: ``derivative * value``.
        """
        return derivative


class _Intercepting(TorchFunctionMode):
    """Within it, on this thread, functions come to `rule`."""

    def __init__(self, rule: BackwardRule, layers: Sequence[str]) -> None:
        super().__init__()
        self._rule = rule
        self._layers = layers

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Hand the call to the rule."""
        layer = self._layers[-1] if self._layers else ""
        return self._rule.call(FunctionCall(function, args, kwargs or {}, layer, self))


def under(rule: BackwardRule, layers: Sequence[str]) -> TorchFunctionMode:
    """Return a context in which functions come to `rule`; `layers` are kept to be the running ones, innermost last."""
    return _Intercepting(rule, layers)


def _body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of `torch.nn.functional` that does not ask first whether someone intercepts it.

    As it is, it would hand itself to the same rule again, without end.
    """
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"{function} is not written in Python")
    asking = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    names = {**function.__globals__, **dict.fromkeys(asking, lambda *arguments: False)}
    body = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    body.__kwdefaults__ = function.__kwdefaults__
    return body


class FindRelu(BackwardRule):
    """Leaves everything as it is, and finds out whether ReLU runs, or ReLU6."""

    def __init__(self) -> None:
        self.found = False

    def call(self, call: FunctionCall) -> Any:
        """Look at the call and leave it."""
        self.found = self.found or call.is_relu or call.ceiling is not None
        return call.proceed()
