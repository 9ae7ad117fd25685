"""What the tests of models share: the sources that the plugins offer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import whylight_demo
import whylight_timm
import whylight_torchvision

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def sources():
    return {
        "demo": whylight_demo.DemoSource,
        "timm": whylight_timm.TimmSource,
        "torchvision": whylight_torchvision.TorchvisionSource,
    }
