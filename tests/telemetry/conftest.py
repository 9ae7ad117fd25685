from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from telemetry_serving import Gate, gate_in, serving

from whylight.testing.server import RunningServer

sys.path.insert(
    0, str(Path(__file__).parents[1] / "open_inference")
)  # requests of the protocol, as its tests make them


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that takes one input at a time, and lets two wait."""
    with serving(
        tmp_path_factory.mktemp("plugin"),
        metrics={"port": 0},
        batching={"max_batch": 1},
        queue={"items": 2},
        limits={"inputs": 2},
    ) as running:
        yield running


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with gate_in(tmp_path) as made:
        yield made
