"""The native extension: whether it is there, fresh, and what it can do; knows nothing of what the operators compute."""

from __future__ import annotations

import importlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from whylight.ops.source_digest import source_digest

_log = logging.getLogger("whylight.ops")
_WITHOUT = "whylight runs without its native operators, in plain torch, correct but slower: %s"
OPERATORS = (
    "cam_pool",
    "cam_render",
    "cam_overlay",
    "tv_loss",
    "tv_loss_raw",
    "tv_loss_backward",
    "tv_loss_with_gradient",
    "gram_mirror_",
    "gram_difference_",
)
_CSRC = Path(__file__).resolve().parents[3] / "csrc"


@dataclass(frozen=True)
class NativeStatus:
    """Whether native operators are in use (`available`), for CUDA tensors too (`cuda`), and in words why."""

    available: bool
    cuda: bool
    description: str


def _load() -> tuple[ModuleType | None, str]:
    """Import the extension, which registers its operators with torch; else say why it cannot be used."""
    if os.environ.get("WHYLIGHT_NATIVE") == "0":
        return None, "switched off by WHYLIGHT_NATIVE=0"
    try:
        extension = importlib.import_module("whylight._C")
    except ModuleNotFoundError:
        reason = "whylight was built without its extension; a C++ compiler and torch >= 2.11 at build time give it"
    except (ImportError, OSError) as error:
        reason = f"the extension does not load: {error}"
    else:
        return extension, ""
    _log.warning(_WITHOUT, reason)
    return None, reason


def _warn_if_stale(extension: ModuleType) -> str:
    """Compare the sources beside this checkout, if this is one, with those that the extension was built from."""
    if not (_CSRC / "schema.cpp").is_file() or source_digest(_CSRC) == extension.source_digest:
        return ""
    _log.warning("whylight's native operators were built from other sources than csrc/ has now: run `pip install -e .`")
    return "; STALE: csrc/ has changed since"


def _has_kernel(operator: str, device: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"whylight::{operator}", device.upper()))


def _find_out() -> NativeStatus:
    extension, reason = _load()
    if extension is None:
        return NativeStatus(False, False, f"no ({reason})")
    if missing := [name for name in OPERATORS if not hasattr(torch.ops.whylight, name)]:
        reason = f"the extension is older than this code and lacks {', '.join(missing)}: run `pip install -e .`"
        _log.warning(_WITHOUT, reason)
        return NativeStatus(False, False, f"no ({reason})")
    stale = _warn_if_stale(extension)
    cuda = _has_kernel("cam_pool", "cuda")
    kernels = f"CPU and CUDA {extension.cuda_architectures}" if cuda else "CPU"
    return NativeStatus(True, cuda, f"yes ({kernels}, built for torch >= {extension.torch_target}{stale})")


_STATUS = _find_out()

CPU_NATIVE = _STATUS.available
CUDA_NATIVE = _STATUS.cuda


def native_status() -> NativeStatus:
    """Return whether the native operators are in use, and if not, why."""
    return _STATUS
