"""What a measurement was made on: hardware, versions, command; measures nothing itself."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch


def describe(*packages: str) -> dict[str, Any]:
    """Return hardware, versions of `packages`, the command and the time."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("whylight", "torch", *packages)},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {torch.get_num_threads()} threads used"
    return platform.processor()
