"""The examples of the page on targets beyond classes run as they stand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from test_examples import ROOT, example, python

from whylight.cli.parameters import read_target
from whylight.settings import load_settings
from whylight.target import Contrast, Detection, OutputIndex, Region

PAGE = ROOT / "docs" / "how-to" / "explain-beyond-classes.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "cat.jpg")
    return tmp_path


def test_contrast(folder):
    printed = python(example(PAGE, "contrast"), folder)
    assert printed.startswith("tiger cat rather than Egyptian cat ")
    assert (folder / "rather.png").exists()


@pytest.mark.parametrize("name", ["region", "detection"])
def test_dense(folder, name):
    assert float(python(example(PAGE, name), folder)) != 0


def test_similarity(folder):
    assert float(python(example(PAGE, "similarity"), folder)) == pytest.approx(1.0, abs=1e-5)


def test_companions(folder):
    assert python(example(PAGE, "companions"), folder).count("(30, 30)") == 2


def test_configuration(tmp_path):
    path = tmp_path / "whylight.toml"
    path.write_text(example(PAGE, "configuration"))
    (model,) = load_settings(path).models
    assert model.companions["question"].shape == (-1,)
    assert model.companions["question"].high == 49


def test_the_forms_of_the_command_line(tmp_path):
    Image.new("L", (2, 2), 255).save(tmp_path / "mask.png")
    assert read_target("contrast:281/285") == Contrast(281, 285)
    assert read_target("contrast:tabby/rank:0").negative.rank == 0
    assert read_target("region:15:0.2,0,0.6,1") == Region(15, 0.2, 0, 0.6, 1)
    assert read_target(f"region:15:{tmp_path}/mask.png").mask.shape == (2, 2)
    assert read_target("detection:1:0.1,0.2,0.4,0.9") == Detection(1, 0.1, 0.2, 0.4, 0.9)
    assert read_target("detection:any:0,0,1,1").class_index is None
    likeness = read_target(f"similarity:{tmp_path}/mask.png@avgpool")
    assert (likeness.layer, likeness.image) == ("avgpool", (tmp_path / "mask.png").read_bytes())
    assert read_target("output:2,417") == OutputIndex((2, 417))
