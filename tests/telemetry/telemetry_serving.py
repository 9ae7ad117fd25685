"""A real server with a tiny model and methods made for these tests, and what it tells of itself over HTTP."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import telemetry_plugin
from prometheus_client.parser import text_string_to_metric_families

from whylight.testing.server import RunningServer, running_server
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc

MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@contextlib.contextmanager
def serving(folder: Path, **sections: Any) -> Iterator[RunningServer]:
    """Run a server whose plugin is put into `folder`."""
    telemetry_plugin.install(folder)
    sections = {
        "models": [MODEL],
        "worker": {"devices": ["cpu"], "threads": 1, "restart_backoff_seconds": 0.01},
        "plugins": {"only": ["observed"]},
        **sections,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        with running_server(**sections) as running:
            yield running


@contextlib.contextmanager
def stub_of(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield explanation_pb2_grpc.ExplanationServiceStub(channel)


def picture(**fields: Any) -> v1.Input:
    tensor = v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=PIXELS.shape, data=PIXELS.tobytes())
    return v1.Input(tensor=tensor, **fields)


def request(*methods: str, inputs: int = 1, model: str = "", **options: Any) -> v1.ExplainRequest:
    made = v1.ExplainRequest(
        model=model, methods=[v1.MethodCall(name=name) for name in methods], inputs=[picture() for _ in range(inputs)]
    )
    if options:
        made.methods[0].options.update(options)
    return made


class Scrape:
    """What a server's metrics said at one moment."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all series of a name that have these labels."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The values that are not 0, by some labels."""
        found: dict[tuple[str, ...], float] = {}
        for sample in self.samples:
            if sample.name == name and sample.value:
                key = tuple(sample.labels[label] for label in labels)
                found[key] = found.get(key, 0.0) + sample.value
        return found


def metrics_address(server: RunningServer) -> str:
    found = re.search(r"metrics at ([^\s\"]+)", server.log)
    assert found, server.log
    return found[1]


def fetch(address: str, token: str = "", tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    """The status and the text that an address answers with."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=30, context=tls
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(server: RunningServer) -> Scrape:
    status, text = fetch(metrics_address(server))
    assert status == 200
    return Scrape(text)


def scrape_until(server: RunningServer, true: Callable[[Scrape], bool]) -> Scrape:
    """Scrape until it is so: for what the server hears of after its client, as of a call that the client took back."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        seen = scrape(server)
        if true(seen):
            return seen
    raise AssertionError({family: seen.families[family].samples for family in seen.families})


@dataclass
class Gate:
    """The test's ends of the pipes at which `gated` says that it has begun, and waits to be let on."""

    folder: str
    steps: int
    go: int

    def wait(self) -> None:
        os.read(self.steps, 1)

    def open(self, times: int = 1) -> None:
        os.write(self.go, b"x" * times)


@contextlib.contextmanager
def gate_in(folder: Path) -> Iterator[Gate]:
    ends = []
    for name in ("steps", "go"):
        os.mkfifo(folder / name)
        ends.append(os.open(folder / name, os.O_RDWR))
    yield Gate(str(folder), *ends)
    for end in ends:
        os.close(end)
