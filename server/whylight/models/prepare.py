"""What is done to the server's own copy of a module before it is served: folding, layout, precision; knows no source.

Each of these is checked by its answer on one example; what changes the answer is not done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

AGREEMENT = 1e-4
"""Largest difference of outputs, relative to the largest output, up to which two ways of computing agree."""

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
AnyModule = TypeVar("AnyModule", bound=nn.Module)
Ask = Callable[[nn.Module, Tensor], Tensor]
"""Runs a module and returns its selected output."""


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are the same up to rounding."""
    return bool((one - other).abs().max() <= AGREEMENT * other.abs().max())


def use_channels_last(module: nn.Module, example: Tensor, ask: Ask) -> bool:
    """Turn the module's weights to channels_last, if it has 2-D convolutions and answers the same; say whether.

    Other copies of the module keep their layout: storage is not shared any more for the weights that turn.
    """
    if not any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        return False
    with torch.no_grad():
        before = ask(module, example)
        module.to(memory_format=torch.channels_last)
        if agree(ask(module, example.contiguous(memory_format=torch.channels_last)), before):
            return True
    module.to(memory_format=torch.contiguous_format)
    return False


def fold_batch_norm(module: nn.Module, example: Tensor, ask: Ask) -> int:
    """Multiply each batch normalisation into the convolution whose output it takes; return how many.

    The normalisation becomes an identity, so that layers keep their names. If the answer changes, because some
    convolution's output was used elsewhere too, everything is put back and 0 returned.
    """
    with torch.no_grad():
        before = ask(module, example)
        pairs = _convolutions_before_norms(module, example, ask)
        for convolution, norm in pairs:
            module.set_submodule(
                convolution.name, fuse_conv_bn_eval(convolution.layer, norm.layer).requires_grad_(False)
            )
            module.set_submodule(norm.name, nn.Identity())
        if agree(ask(module, example), before):
            return len(pairs)
        for convolution, norm in pairs:
            module.set_submodule(convolution.name, convolution.layer)
            module.set_submodule(norm.name, norm.layer)
    return 0


@dataclass(frozen=True)
class _Named(Generic[AnyModule]):
    name: str
    layer: AnyModule


def _convolutions_before_norms(
    module: nn.Module, example: Tensor, ask: Ask
) -> list[tuple[_Named[nn.Conv2d], _Named[nn.BatchNorm2d]]]:
    """Return the pairs in which a normalisation takes just what a convolution gave, each running once."""
    made: dict[int, _Named[nn.Conv2d]] = {}
    pairs: list[tuple[_Named[nn.Conv2d], _Named[nn.BatchNorm2d]]] = []
    runs: dict[str, int] = {}
    kept: list[Tensor] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            kept.append(output)
            if isinstance(layer, nn.Conv2d):
                made[id(output)] = _Named(name, layer)
            elif isinstance(layer, nn.BatchNorm2d) and id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])], _Named(name, layer)))

        return hook

    handles = [
        layer.register_forward_hook(watch(name))
        for name, layer in module.named_modules()
        if type(layer) in (nn.Conv2d, nn.BatchNorm2d)
    ]
    try:
        ask(module, example)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if all(runs[part.name] == 1 for part in pair)]


def narrow_weights(module: nn.Module, layers: set[str], dtype: torch.dtype) -> None:
    """Keep the weights of the convolutions and linear layers in `layers` in `dtype`.

    Autocast would turn them at every call; weights that other layers share stay as they are.
    """
    owners: dict[int, int] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, layer in module.named_modules():
        if name in layers and type(layer) in _WEIGHTED:
            for key, parameter in list(layer.named_parameters(recurse=False)):
                if owners[id(parameter)] == 1:
                    setattr(layer, key, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
