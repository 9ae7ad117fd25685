"""Same bits alone and in a batch, on a CPU; knows operators and kernels, neither models nor methods.

Measured with torch 2.15 (oneDNN, MKL): a convolution gives an image the same bits whatever batch it is in, forward and
backward, with two exceptions. (1) `linear`: the kernel of a matrix product depends on the number of rows. (2) Some
small 1x1 convolutions at batch 1 with several threads, where the work is split otherwise. So, in `batch_invariant()`:

* `linear` works on blocks of eight rows, the last one filled up with zeros; samples that have rows of their own
  (`[N, T, D]`) are worked on one by one;
* a convolution of a single sample is computed as one of two, if its kernel is of the second kind. That is found out
  once for each shape, layout, type and number of threads, by comparing bits, and remembered for the process.

It is not used on a GPU, whose libraries choose kernels by other rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROWS = 8


class batch_invariant(TorchFunctionMode):
    """Within it, on this thread, an input's bits do not depend on the batch that it is in."""

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


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if input.dim() < 2:
        return F.linear(input, weight, bias)
    if input.dim() > 2:
        if len(input) == 1:
            return F.linear(input, weight, bias)
        return torch.cat([F.linear(sample, weight, bias) for sample in torch.split(input, 1)])
    blocks = [_block(rows, weight, bias) for rows in torch.split(input, ROWS)]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _block(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    count = len(rows)
    if count == ROWS:
        return F.linear(rows, weight, bias)
    return F.linear(F.pad(rows, (0, 0, 0, ROWS - count)), weight, bias)[:count]


def _convolution(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def convolution(input: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        if input.dim() != weight.dim() or len(input) != 1 or not _fragile(plain, input, weight, rest, named):
            return plain(input, weight, *rest, **named)
        return plain(_doubled(input), weight, *rest, **named)[:1]

    return convolution


def _doubled(input: Tensor) -> Tensor:
    """Return the one sample twice, in the layout that it has."""
    channels_last = input.dim() == 4 and _is_channels_last(input)
    doubled = torch.cat((input, input))
    return doubled.contiguous(memory_format=torch.channels_last) if channels_last else doubled


def _is_channels_last(input: Tensor) -> bool:
    return input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()


_known: dict[tuple[Any, ...], bool] = {}


def _fragile(
    plain: Callable[..., Tensor], input: Tensor, weight: Tensor, rest: tuple[Any, ...], named: Mapping[str, Any]
) -> bool:
    """Whether the sample alone has other bits than the sample in a batch, forward or backward."""
    if input.device.type != "cpu":
        return False
    settings = tuple(_setting(value) for value in (*rest, *(item for pair in sorted(named.items()) for item in pair)))
    narrow = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    layouts = (input.stride(), weight.stride())
    key = (plain, input.shape, weight.shape, layouts, input.dtype, narrow, settings, torch.get_num_threads())
    known = _known.get(key)
    if known is None:
        known = _known[key] = _differs(plain, input, weight, rest, named)
    return known


def _setting(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.dtype)
    return tuple(value) if isinstance(value, list) else value


def _differs(
    plain: Callable[..., Tensor], input: Tensor, weight: Tensor, rest: tuple[Any, ...], named: Mapping[str, Any]
) -> bool:
    source = torch.Generator().manual_seed(0)
    sample = torch.randn(input.shape, generator=source, dtype=torch.float32).to(input.dtype)
    channels_last = input.dim() == 4 and _is_channels_last(input)
    alone = sample.contiguous(memory_format=torch.channels_last) if channels_last else sample
    results = []
    with torch.enable_grad():
        for batch in (alone, _doubled(alone)):
            leaf = batch.detach().requires_grad_(True)
            output = plain(leaf, weight, *rest, **named)
            (gradient,) = torch.autograd.grad(output, leaf, output.detach())
            results.append((output.detach()[:1], gradient[:1]))
    (output_alone, gradient_alone), (output_batch, gradient_batch) = results
    return not (torch.equal(output_alone, output_batch) and torch.equal(gradient_alone, gradient_batch))


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.conv1d: _convolution(F.conv1d),
    F.conv2d: _convolution(F.conv2d),
    F.conv3d: _convolution(F.conv3d),
}
