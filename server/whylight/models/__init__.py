"""Where models come from and what the server knows of them; knows no method and no request.

The names load on first use: a plugin that offers a source imports this without paying for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whylight.models.companion import Companion
    from whylight.models.config import ModelConfig
    from whylight.models.load import open_model, wrap_module
    from whylight.models.model import LayerInfo, Model
    from whylight.models.ownership import own_copy
    from whylight.models.source import ModelSource, OpenedModel
    from whylight.models.transform import Fitted, Transform

_HOMES = {
    "Companion": "companion",
    "Fitted": "transform",
    "LayerInfo": "model",
    "Model": "model",
    "ModelConfig": "config",
    "ModelSource": "source",
    "OpenedModel": "source",
    "Transform": "transform",
    "open_model": "load",
    "own_copy": "ownership",
    "wrap_module": "load",
}

__all__ = [
    "Companion",
    "Fitted",
    "LayerInfo",
    "Model",
    "ModelConfig",
    "ModelSource",
    "OpenedModel",
    "Transform",
    "open_model",
    "own_copy",
    "wrap_module",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"whylight.models.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'whylight.models' has no attribute {name!r}")
