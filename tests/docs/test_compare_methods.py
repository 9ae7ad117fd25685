"""The examples of the page on comparing methods run as they stand."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from test_examples import ROOT, example, python

from whylight.plugins import Plugins

PAGE = ROOT / "docs" / "how-to" / "compare-methods.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "cat.jpg")
    return tmp_path


def test_evaluate(folder):
    *ranks, measured = python(example(PAGE, "evaluate"), folder).splitlines()
    assert {line.split()[0] for line in ranks} == {"grad-cam", "smoothgrad"}
    assert measured.startswith("insertion 0.")
    assert measured.endswith(" 51")


def test_the_command(folder):
    program, *arguments = shlex.split(example(PAGE, "command"))
    assert program == "whylight"
    done = subprocess.run(
        [sys.executable, "-m", "whylight", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    assert "mean rank" in done.stdout
    assert (folder / "compared.png").exists()


def test_every_metric_is_listed():
    plugins = Plugins(only=["metrics"])
    plugins.load()
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): row[3].strip() for row in rows}
    assert set(listed) == set(plugins.metrics)
    for name, offered in plugins.metrics.items():
        assert listed[name] == ("higher" if offered.metric.higher_is_better else "lower")
