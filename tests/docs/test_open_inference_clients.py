"""The page for clients of Triton and KServe: its code runs as it stands, in the clients' own environments."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whylight.open_inference import messages as oip
from whylight.open_inference import outputs
from whylight.open_inference.parameters import _NAMES
from whylight.open_inference.requests import PICTURES, TARGET
from whylight.testing.server import running_server

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "call-from-triton-and-kserve-clients.md"
ENVIRONMENTS = ROOT / "cache" / "open-inference"
ADDRESS = "127.0.0.1:50051"


def example(name: str) -> str:
    blocks = re.findall(r"^<!-- example: (\w+) -->\n```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return dict(blocks)[name]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A server with a tiny network under the name of the page's, whose classes have labels."""
    labels = tmp_path_factory.mktemp("labels") / "labels.txt"
    labels.write_text("tench\nshark\ntabby\nEgyptian cat\nlynx\n")
    model = {
        "name": "efficientnet-lite0",
        "source": "python:whylight.testing.networks:conv_gap_net",
        "labels": str(labels),
    }
    with running_server(
        models=[model], worker={"devices": ["cpu"], "threads": 1}, plugins={"only": ["cam", "gradients"]}
    ) as running:
        yield running


def run(client: str, name: str, address: str, folder: Path) -> str:
    python = ENVIRONMENTS / client / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {client} in {ENVIRONMENTS}; scripts/check_open_inference_clients.sh puts it there")
    assert ADDRESS in example(name)
    code = example(name).replace(ADDRESS, address)
    done = subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_picture_by_tritonclient(server, tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.jpg")
    printed = run("tritonclient", "triton", server.address, tmp_path)
    assert printed.startswith("[[b'tabby']]")
    assert "(1, 1, 56, 56)" in printed
    with Image.open(tmp_path / "why.png") as picture:
        picture.load()
        assert picture.size == (224, 224)


def test_a_stream_by_tritonclient(server, tmp_path: Path):
    printed = run("tritonclient", "stream", server.address, tmp_path)
    assert re.findall(r"\('([\w-]+)', \(1, 1, \d+, \d+\)\)", printed) == ["grad-cam", "layer-cam", "saliency"]


def test_a_batch_by_kserve(server, tmp_path: Path):
    printed = run("kserve", "kserve", server.address, tmp_path)
    assert printed == "{'MAP': (2, 2, 224, 224), 'TARGET_SCORE': (2, 2)}\n"


def test_the_page_names_every_tensor_parameter_and_call():
    text = PAGE.read_text()
    words = {*outputs.NAMES, *PICTURES, TARGET, *_NAMES}
    words |= {parameter for names, _ in outputs._READERS.values() for parameter in names}
    words |= {method.name for method in oip.POOL.FindServiceByName(oip.SERVICE).methods}
    assert {word for word in words if f"`{word}`" not in text} == set()


def test_the_scripts_help_says_what_it_does():
    done = subprocess.run(
        [ROOT / "scripts" / "check_open_inference_clients.sh", "--help"], capture_output=True, text=True, check=True
    )
    assert "tritonclient" in done.stdout
    assert "--only-install" in done.stdout
