"""Everything about a module that explaining must not change, as plain values that compare; knows no method."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def fingerprint(module: nn.Module) -> dict[str, Any]:
    """Return the state of `module`: bits, gradients, modes, hooks and classes of all its parts, by name.

    Two fingerprints are equal if nothing changed that a caller could notice.
    """
    state: dict[str, Any] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        state[f"{name}: class"] = type(part)
        state[f"{name}: replaced"] = vars(part).get("forward")
        state[f"{name}: training"] = part.training
        state[f"{name}: hooks"] = tuple(tuple(getattr(part, kind)) for kind in _HOOKS)
        state[f"{name}: inplace"] = getattr(part, "inplace", None)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        gradient = None if parameter.grad is None else _digest(parameter.grad)
        state[f"{name}: parameter"] = (_digest(parameter), parameter.requires_grad, parameter._version, gradient)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        state[f"{name}: buffer"] = (_digest(buffer), buffer._version)
    return state


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"
