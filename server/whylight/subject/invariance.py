"""Same bits alone and in a batch, on a CPU; knows layers and kernels, neither models nor methods.

Measured with torch 2.15 (oneDNN, MKL): a convolution gives an image the same bits whatever batch it is in, with two
exceptions. (1) `linear`: the kernel of a matrix product depends on the number of rows. (2) Some convolutions of a
single image, or of a batch that the threads cannot share out in whole images, so that one is split between two: few
forward (small 1x1 ones at batch 1), more backward. So:

* `linear` works on blocks of a fixed number of rows: one, if the weights fit into a cache, as for the classifiers of
  today's networks; eight, the last block filled up with zeros, if reading the weights is what takes the time. Samples
  with rows of their own (`[N, T, D]`) are worked on one by one;
* a convolution of the second kind gets a batch that the threads can share, filled up with copies. Which convolution is
  of that kind is found out once for each layer, shape, layout, type and number of threads, by comparing bits, and the
  backward pass counts only where there will be one.

A third thing is a fault, not rounding: torch's batch normalisation (2.15, not in training) gives a wrong gradient where
a tensor has several equally valid strides, as a single image has, and those of its input and of the gradient are read
in different ways: tokens of one image, turned into maps, are so. Both get the strides that leave no choice.

`make_batch_invariant` does this in the layers of the server's own copy, at no cost for other operators. What a module
computes with functions instead of layers, needs `batch_invariant()` around the run, which costs
about 20 us for each operator. Neither is used on a GPU, whose libraries choose kernels by other rules.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_ACTIVATION_NODES = 8
"""How far behind the normalisation a layer's output may lie, where it has an activation of its own, as timm's have."""


def make_batch_invariant(module: nn.Module) -> None:
    """Make linear layers, convolutions and batch normalisations of `module`, the server's own copy, compute so."""
    for layer in module.modules():
        if type(layer).forward is nn.Linear.forward and isinstance(layer, nn.Linear):
            plain = functools.partial(nn.Linear.forward, layer)
            layer.__dict__["forward"] = functools.partial(_by_blocks, plain, _block_rows(layer.weight))
        elif isinstance(layer, _CONVOLUTIONS):
            plain = functools.partial(cast(Any, type(layer)).forward, layer)
            layer.__dict__["forward"] = _Convolution(plain, layer.weight.dim())
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            plain = functools.partial(cast(Any, type(layer)).forward, layer)
            layer.__dict__["forward"] = functools.partial(_normalised, plain)


def found_sizes(module: nn.Module) -> dict[str, list[list[Any]]]:
    """Return what the convolutions of `module` have found out, by layer, as data that travels as JSON."""
    found: dict[str, list[list[Any]]] = {}
    for name, computed in _convolutions(module):
        for (shape, stride, dtype, narrow, *others), size in list(computed.known.items()):
            types = [_type_name(dtype), narrow and _type_name(narrow)]
            found.setdefault(name, []).append([list(shape), list(stride), *types, *others, size])
    return found


def put_sizes(module: nn.Module, found: Mapping[str, Sequence[Sequence[Any]]]) -> None:
    """Have the convolutions of `module` know what `found_sizes` gave of the same one, and nothing else.

    It holds for the same weights, libraries and processor.
    """
    for name, computed in _convolutions(module):
        computed.known = {
            (torch.Size(shape), tuple(stride), getattr(torch, dtype), narrow and getattr(torch, narrow), *others): size
            for shape, stride, dtype, narrow, *others, size in found.get(name, ())
        }


def _convolutions(module: nn.Module) -> Iterator[tuple[str, _Convolution]]:
    for name, layer in module.named_modules():
        computed = layer.__dict__.get("forward")
        if isinstance(computed, _Convolution):
            yield name, computed


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def _normalised(plain: _Layer, input: Tensor) -> Tensor:
    """Return a layer's batch normalisation, whose way back reads strides in one way only."""
    output = plain(_plainly_laid(input))
    node = output.grad_fn
    for _ in range(_ACTIVATION_NODES):
        if node is None or "BatchNorm" in node.name():
            break
        node = node.next_functions[0][0] if node.next_functions else None
    if node is not None and "BatchNorm" in node.name():
        node.register_prehook(_lay_plainly)
    return output


def _lay_plainly(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if one is None else _plainly_laid(one) for one in gradients)


def _plainly_laid(tensor: Tensor) -> Tensor:
    """Return the tensor, contiguous if it would pass for channels_last without having just those strides."""
    if tensor.dim() != 4 or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    channels, height, width = tensor.shape[1:]
    usual = (channels * height * width, 1, width * channels, channels)
    return tensor if tensor.stride() == usual else tensor.contiguous()


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
    """A convolution that fills its batch up where threads would split an image and change bits; remembers where."""

    def __init__(self, plain: _Layer, dimensions: int) -> None:
        self._plain = plain
        self._dimensions = dimensions
        self.known: dict[tuple[Any, ...], int] = {}

    def __call__(self, input: Tensor) -> Tensor:
        count, threads = len(input), torch.get_num_threads()
        if (count > 1 and count % threads == 0) or input.dim() != self._dimensions:
            return self._plain(input)
        # How a large batch is shared out depends on what is left over when every thread has its whole images.
        pattern = count if count < threads else threads + count % threads
        missing = self._filled(input, pattern, threads) - pattern
        return self._plain(_with_copies(input, count + missing))[:count] if missing else self._plain(input)

    def _filled(self, input: Tensor, pattern: int, threads: int) -> int:
        """Return the size, at least `pattern`, at which a batch of such images has the bits of whole images."""
        narrow = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        backward = torch.is_grad_enabled() and input.requires_grad
        key = (input.shape[1:], input.stride()[1:], input.dtype, narrow, threads, pattern, backward)
        known = self.known.get(key)
        if known is None:
            shared = threads * math.ceil(max(2, pattern) / threads)
            sample = _sample_like(input)
            whole = _bits(self._plain, sample, shared, backward)
            sizes = (size for size in range(pattern, shared) if _agree(self._plain, sample, size, backward, whole))
            known = self.known[key] = next(sizes, shared)
        return known


def _sample_like(input: Tensor) -> Tensor:
    """Return one image of noise, in the shape, layout and type of `input`."""
    shape = (1, *input.shape[1:])
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(input.dtype)
    return sample.contiguous(memory_format=torch.channels_last) if _is_channels_last(input) else sample


def _with_copies(input: Tensor, count: int) -> Tensor:
    """Return the images and, behind them, copies up to `count`, in the layout that they have."""
    copies = input.detach()[torch.arange(len(input), count) % len(input)]
    filled = torch.cat((input, copies))
    return filled.contiguous(memory_format=torch.channels_last) if _is_channels_last(input) else filled


def _bits(plain: _Layer, sample: Tensor, count: int, backward: bool) -> tuple[Tensor, ...]:
    """Return the output for `count` times the same image and, with `backward`, the gradient of its square's half."""
    # Whoever intercepts the run's functions has nothing to do with these.
    with torch._C.DisableTorchFunction(), torch.set_grad_enabled(backward):
        leaf = _with_copies(sample, count).detach().requires_grad_(backward)
        output = plain(leaf)
        if not backward:
            return (output,)
        return output.detach(), *torch.autograd.grad(output, leaf, output.detach())


def _agree(plain: _Layer, sample: Tensor, count: int, backward: bool, whole: tuple[Tensor, ...]) -> bool:
    """Whether every one of `count` equal images has the bits of the first of `whole`."""
    pairs = zip(_bits(plain, sample, count, backward), whole, strict=True)
    return all(torch.equal(one, other[:1].expand_as(one)) for one, other in pairs)


def _is_channels_last(input: Tensor) -> bool:
    if input.dim() != 4:
        return False
    return input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _by_blocks(lambda block: F.linear(block, weight, bias), _block_rows(weight), input)


def _convolution(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a functional convolution that remembers for all weights of a shape, where a layer does for itself."""
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], int]] = {}

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
