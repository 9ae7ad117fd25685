"""A model with the weights of its last layers drawn anew, beside the one that is served; knows no metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from whylight.models.ownership import own_copy

if TYPE_CHECKING:
    from whylight.models.model import Model


def randomised(model: Model, layers: int, seed: int) -> Model:
    """Return a copy of `model` whose last `layers` layers with weights have others, from `seed`; the rest is shared.

    Layers count from the output back, in the order in which they run; normalisations are no layers of their own. Each
    tensor is drawn from the normal distribution of its own mean and deviation, so that activations keep their size.
    """
    module = own_copy(model.module)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in last_layers(model, layers):
            for owner, key, tensor in list(_parameters(model, module, name)):
                # In place of the parameter: what it holds belongs to the served model too.
                setattr(owner, key, nn.Parameter(_drawn(tensor, source), requires_grad=False))
    made = replace(model, module=module, digest=f"{model.digest} randomised:{layers}:{seed}", compiled_from=None)
    linear = module.get_submodule(model.findings.last_linear) if model.head is not None else None
    if model.head is not None and isinstance(linear, nn.Linear):
        made.head = replace(model.head, weight=linear.weight, bias=linear.bias)
    return made


def last_layers(model: Model, count: int) -> tuple[str, ...]:
    """Return the names of the last `count` layers with weights, the last one first; fewer if there are no more."""
    found: list[str] = []
    for name, _ in reversed(model.findings.sizes):
        weighs = any(tensor.dim() > 1 for _, _, tensor in _parameters(model, model.module, name))
        if weighs and name not in found:
            found.append(name)
    return tuple(found[:count])


def _parameters(model: Model, module: nn.Module, name: str) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield a layer's own parameters in `module`, and those of layers in it that never run, which it uses itself.

    `nn.MultiheadAttention` has such a one: its last projection.
    """
    layer = module.get_submodule(name)
    for key, tensor in layer.named_parameters(recurse=False):
        yield layer, key, tensor
    for child, _ in layer.named_children():
        if f"{name}.{child}" not in model.findings.passes:
            yield from _parameters(model, module, f"{name}.{child}")


def _drawn(tensor: Tensor, source: torch.Generator) -> Tensor:
    wide = tensor.detach().to("cpu", torch.float64)
    drawn = torch.randn(wide.shape, generator=source, dtype=torch.float64) * wide.std(correction=0) + wide.mean()
    return drawn.to(tensor)
