"""Installs plugins for one test, as pip would: a module, and the metadata that names its entry point."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

collect_ignore = ["third_party"]  # a project of its own, whose tests test_third_party.py runs as its author would

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write a distribution with one plugin to a folder on sys.path; the modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = []

    def write(name: str, source: str = "", *, distribution: str = "", version: str = "1.0", entry: str = "") -> Path:
        distribution = distribution or f"whylight-{name}"
        entry = entry or f"whylight_{name}"
        modules.append(f"whylight_{name}")
        path = tmp_path / f"whylight_{name}.py"
        path.write_text(textwrap.dedent(source))
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[whylight]\n{name} = {entry}\n")
        return path

    yield write
    for module in modules:
        sys.modules.pop(module, None)
