"""A copy of a module for the server alone, over the same storage; knows nothing of serving."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from whylight.errors import InvalidInput


def own_copy(module: nn.Module) -> nn.Module:
    """Return a copy of `module` that can be served, and leave `module` as it is.

    The copy is in eval mode, its parameters are frozen, its activations work out of place. It shares the storage of
    parameters and buffers: no memory is doubled, and what an optimiser does to the original is seen. Data-parallel
    wrappers are left out. Hooks are copied with it: some layers compute their weights in one.

    Raises:
        InvalidInput: the module holds something that cannot be copied; the message says what.
    """
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach()
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        raise InvalidInput(f"the module {type(module).__name__} cannot be copied: {error}", field="model") from error
    copied.eval()
    copied.requires_grad_(False)
    for layer in copied.modules():
        if getattr(layer, "inplace", None) is True:
            layer.__dict__["inplace"] = False
    return copied
