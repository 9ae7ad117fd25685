"""Weights: from files, at random but always the same, and their digest; knows no source and no server.

Pickled objects are never loaded: safetensors, or torch.load with weights_only=True.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whylight.errors import InvalidInput, NotFound

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict from `path` (.safetensors, .pt, .pth) into `module`; every key and shape must match.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is of another kind, holds pickled objects, or does not fit; the message says how.
    """
    if not path.is_file():
        raise NotFound(f"there is no weights file {path}", reason="MODEL_NOT_FOUND", field="weights")
    try:
        module.load_state_dict(_read(path))
    except RuntimeError as error:
        raise InvalidInput(f"the weights in {path} do not fit: {_shortened(error)}", field="weights") from error


def random_weights(module: nn.Module, seed: int) -> None:
    """Fill `module` with random weights that are the same each time, and lively.

    Convolutions and linear layers are drawn as by He et al. (ICCV 2015), normalisations get scales, shifts and running
    statistics around those of a trained network, so that no map is all zero.
    """
    source = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    with torch.no_grad():
        for layer in module.modules():
            normalises = isinstance(layer, _NORMS)
            for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
                if id(tensor) not in done and tensor.is_floating_point():
                    drawn = _drawn(name, tensor, normalises, isinstance(tensor, nn.Parameter), source)
                    if drawn is not None:
                        tensor.copy_(drawn)
                done.add(id(tensor))


def digest_of(module: nn.Module) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of the state dict, as ``sha256:...``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _drawn(name: str, tensor: Tensor, normalises: bool, is_parameter: bool, source: torch.Generator) -> Tensor | None:
    """Return new values, or None to leave the tensor as it is (buffers that are constants)."""
    if normalises and name in ("weight", "running_var"):
        return 0.5 + torch.rand(tensor.shape, generator=source)
    if name == "running_mean" or (is_parameter and tensor.dim() < 2):
        return 0.1 * torch.randn(tensor.shape, generator=source)
    if not is_parameter:
        return None
    fan_in = math.prod(tensor.shape[1:]) if name.endswith("weight") else 0
    deviation = math.sqrt(2 / fan_in) if fan_in else 0.02
    return torch.randn(tensor.shape, generator=source).mul_(deviation)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            read: dict[str, Tensor] = load_file(path)
        except SafetensorError as error:
            raise InvalidInput(f"{path} is not a safetensors file: {error}", field="weights") from error
        return read
    if path.suffix not in (".pt", ".pth"):
        raise InvalidInput(f"{path}: weights are .safetensors, .pt or .pth", field="weights")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidInput(
            f"{path} cannot be read as plain weights (pickled objects are refused): {_shortened(error)}",
            field="weights",
        ) from error
    return _state_dict(loaded, path)


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InvalidInput(f"{path} holds no state dict", field="weights")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else f"{text[:500]} ..."
