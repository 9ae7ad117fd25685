"""The digest of the C++ and CUDA sources, by which a stale extension is known; imports nothing of whylight."""

from __future__ import annotations

import hashlib
from pathlib import Path

SUFFIXES = frozenset({".cpp", ".cu", ".cuh", ".h"})


def source_digest(csrc: Path) -> str:
    """Return a digest, by name and content, of every source under `csrc` that goes into the extension."""
    digest = hashlib.sha256()
    for path in sorted(csrc.rglob("*")):
        name = path.relative_to(csrc).as_posix()
        if path.suffix in SUFFIXES and not name.startswith("tests/"):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
