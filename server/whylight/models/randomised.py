"""A model with the weights of its last layers drawn anew, beside the one that is served; knows no metric."""

from __future__ import annotations

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
            layer = module.get_submodule(name)
            for key, tensor in list(layer.named_parameters(recurse=False)):
                # In place of the parameter: what it holds belongs to the served model too.
                setattr(layer, key, nn.Parameter(_drawn(tensor, source), requires_grad=False))
    made = replace(model, module=module, digest=f"{model.digest} randomised:{layers}:{seed}", compiled_from=None)
    linear = module.get_submodule(model.findings.last_linear) if model.head is not None else None
    if model.head is not None and isinstance(linear, nn.Linear):
        made.head = replace(model.head, weight=linear.weight, bias=linear.bias)
    return made


def last_layers(model: Model, count: int) -> tuple[str, ...]:
    """Return the names of the last `count` layers with weights, the last one first; fewer if there are no more."""
    found: list[str] = []
    for name, _ in reversed(model.findings.sizes):
        layer = model.module.get_submodule(name)
        weighs = any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False))
        if weighs and name not in found:
            found.append(name)
    return tuple(found[:count])


def _drawn(tensor: Tensor, source: torch.Generator) -> Tensor:
    wide = tensor.detach().to("cpu", torch.float64)
    drawn = torch.randn(wide.shape, generator=source, dtype=torch.float64) * wide.std(correction=0) + wide.mean()
    return drawn.to(tensor)
