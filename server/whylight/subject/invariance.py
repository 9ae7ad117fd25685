"""Same bits alone and in a batch, on a CPU; knows layers and kernels, neither models nor methods.

Measured with torch 2.15 (oneDNN, MKL): a convolution gives an image the same bits whatever batch it is in, forward and
backward, with two exceptions. (1) `linear`: the kernel of a matrix product depends on the number of rows. (2) Some
small 1x1 convolutions at batch 1 with several threads, where the work is split otherwise. So:

* `linear` works on blocks of a fixed number of rows: one, if the weights fit into a cache, as for the classifiers of
  today's networks; eight, the last block filled up with zeros, if reading the weights is what takes the time. Samples
  with rows of their own (`[N, T, D]`) are worked on one by one;
* a convolution of a single sample is computed as one of two, if its kernel is of the second kind. That is found out
  once for each layer, shape, layout, type and number of threads, by comparing bits.

`make_batch_invariant` does this in the layers of the server's own copy, at no cost for other operators. What a module
computes with functions instead of layers, needs `batch_invariant()` around the run, which costs
about 20 us for each operator. Neither is used on a GPU, whose libraries choose kernels by other rules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CACHED_BYTES = 16 << 20
ROWS = 8

_Layer = Callable[[Tensor], Tensor]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TAKEN_OVER = (nn.Linear, *_CONVOLUTIONS)
"""Layers whose computing is replaced."""


def make_batch_invariant(module: nn.Module) -> None:
    """Make the linear layers and convolutions of `module`, which must be the server's own copy, compute so."""
    for layer in module.modules():
        if type(layer).forward is nn.Linear.forward and isinstance(layer, nn.Linear):
            plain = functools.partial(nn.Linear.forward, layer)
            layer.__dict__["forward"] = functools.partial(_by_blocks, plain, _block_rows(layer.weight))
        elif isinstance(layer, _CONVOLUTIONS):
            plain = functools.partial(cast(Any, type(layer)).forward, layer)
            layer.__dict__["forward"] = _Convolution(plain, layer.weight.dim())


class batch_invariant(TorchFunctionMode):
    """Within it, on this thread, functional linear layers and convolutions compute so."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take over `linear` and the convolutions; leave the rest."""
        replacement = _REPLACEMENTS.get(function)
        if replacement is None:
            return function(*args, **(kwargs or {}))
        return replacement(*args, **(kwargs or {}))


class CountCalls(TorchFunctionMode):
    """Counts, within it, the calls that `batch_invariant` would take over; finds out whether a module needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count the call and leave it."""
        self.count += function in _REPLACEMENTS
        return function(*args, **(kwargs or {}))


def _block_rows(weight: Tensor) -> int:
    return 1 if weight.nbytes <= CACHED_BYTES else ROWS


def _by_blocks(plain: _Layer, rows: int, input: Tensor) -> Tensor:
    if input.dim() < 2 or (len(input) == 1 and (rows == 1 or input.dim() > 2)):
        return plain(input)
    if input.dim() > 2:
        return torch.cat([plain(sample) for sample in torch.split(input, 1)])
    blocks = [_filled(plain, block, rows) for block in torch.split(input, rows)]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _filled(plain: _Layer, block: Tensor, rows: int) -> Tensor:
    missing = rows - len(block)
    return plain(F.pad(block, (0, 0, 0, missing)))[: len(block)] if missing else plain(block)


class _Convolution:
    """A convolution that computes a single sample as one of two where that has other bits; remembers where."""

    def __init__(self, plain: _Layer, dimensions: int) -> None:
        self._plain = plain
        self._dimensions = dimensions
        self.known: dict[tuple[Any, ...], bool] = {}

    def __call__(self, input: Tensor) -> Tensor:
        if len(input) != 1 or input.dim() != self._dimensions or not self._is_fragile(input):
            return self._plain(input)
        return self._plain(_doubled(input))[:1]

    def _is_fragile(self, input: Tensor) -> bool:
        narrow = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        key = (input.shape, input.stride(), input.dtype, narrow, torch.get_num_threads())
        known = self.known.get(key)
        if known is None:
            known = self.known[key] = _differs(self._plain, input)
        return known


def _doubled(input: Tensor) -> Tensor:
    """Return the one sample twice, in the layout that it has."""
    doubled = torch.cat((input, input))
    return doubled.contiguous(memory_format=torch.channels_last) if _is_channels_last(input) else doubled


def _is_channels_last(input: Tensor) -> bool:
    if input.dim() != 4:
        return False
    return input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()


def _differs(plain: _Layer, input: Tensor) -> bool:
    """Whether a sample like `input` has other bits alone than with another one, forward or backward."""
    source = torch.Generator().manual_seed(0)
    alone = torch.randn(input.shape, generator=source, dtype=torch.float32).to(input.dtype)
    if _is_channels_last(input):
        alone = alone.contiguous(memory_format=torch.channels_last)
    results = []
    with torch.enable_grad():
        for batch in (alone, _doubled(alone)):
            leaf = batch.detach().requires_grad_(True)
            output = plain(leaf)
            (gradient,) = torch.autograd.grad(output, leaf, output.detach())
            results.append((output.detach()[:1], gradient[:1]))
    return not all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _by_blocks(lambda block: F.linear(block, weight, bias), _block_rows(weight), input)


def _convolution(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a functional convolution that remembers for all weights of a shape, where a layer does for itself."""
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], bool]] = {}

    def convolution(input: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        computed = _Convolution(lambda batch: function(batch, weight, *rest, **named), weight.dim())
        settings = [value for value in (*rest, *named.items()) if not isinstance(value, Tensor)]
        computed.known = found.setdefault((weight.shape, weight.stride(), repr(settings)), {})
        return computed(input)

    return convolution


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.conv1d: _convolution(F.conv1d),
    F.conv2d: _convolution(F.conv2d),
    F.conv3d: _convolution(F.conv3d),
}
