"""What the tests beyond classification share: two small networks, trained once, their weights, and a server of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import beyond_models as nets

import whylight
from whylight.models import ModelConfig, open_model
from whylight.models.source import PythonSource
from whylight.testing.server import RunningServer, running_server

ENCODER = {"name": "encoder", "source": "torchvision:resnet18", "weights": "random:0", "input_size": (64, 64)}


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[str, Path]:
    """The weights of the answerer and of the captioner, in files."""
    folder = tmp_path_factory.mktemp("trained")
    return {
        "answerer": nets.save(nets.train_answerer(), folder / "answerer.safetensors"),
        "captioner": nets.save(nets.train_captioner(), folder / "captioner.safetensors"),
    }


def config(name: str, weights: Path) -> dict[str, str]:
    return {"name": name, "source": f"python:beyond_models:{name}", "weights": str(weights)}


@pytest.fixture(scope="session")
def answerer(trained) -> whylight.Model:
    return open_model(ModelConfig(**config("answerer", trained["answerer"])), {"python": PythonSource})


@pytest.fixture(scope="session")
def captioner(trained) -> whylight.Model:
    return open_model(ModelConfig(**config("captioner", trained["captioner"])), {"python": PythonSource})


@pytest.fixture(scope="session")
def server(trained) -> Iterator[RunningServer]:
    """A server in a process of its own that serves all of them."""
    models = [*(config(name, path) for name, path in trained.items()), nets.FULLY_CONVOLUTIONAL, nets.DETECTOR, ENCODER]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    try:
        worker = {"devices": ["cpu"], "threads": 1}
        with running_server(models=models, worker=worker) as running:
            yield running
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def client(server) -> Iterator[whylight.Client]:
    with whylight.Client(server.address) as connected:
        yield connected
