"""The real server with a tiny model and the faulty plugin, and gates at which its method waits for the test."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faulty_plugin
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from whylight.testing.server import RunningServer, running_server
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc
from whylight.wire import dict_to_struct

MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}
WORKER = {"devices": ["cpu"], "threads": 1, "restart_backoff_seconds": 0.01, "restart_backoff_max_seconds": 0.02}


@contextlib.contextmanager
def serving(folder: Path, *, worker: dict[str, Any] | None = None, **sections: Any) -> Iterator[RunningServer]:
    """Run a server with the faulty plugin, installed into `folder`."""
    faulty_plugin.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        plugins = {"only": ["faulty", "gradients"]}
        with running_server(models=[MODEL], worker={**WORKER, **(worker or {})}, plugins=plugins, **sections) as server:
            yield server


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def request(*numbers: int, method: str = "faulty", **options: str) -> v1.ExplainRequest:
    """Ask for the maps of pictures, as arrays and as files."""
    outputs = [v1.OutputSpec(name="map", map=v1.MapOutput()), v1.OutputSpec(name="file", picture=v1.PictureOutput())]
    return v1.ExplainRequest(
        methods=[v1.MethodCall(name=method, options=dict_to_struct(options))],
        inputs=[v1.Input(image=picture(number)) for number in numbers],
        outputs=outputs,
    )


def bits(answer: v1.ExplainResponse) -> list[tuple[bytes, bytes]]:
    """Return the map and the picture of each input."""
    found = []
    for result in answer.results:
        assert result.HasField("explained"), result.error
        one, file = result.explained.explanations[0].artifacts
        found.append((one.tensor.data, file.picture.data))
    return found


def reason_of(error: grpc.RpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    return info.reason


def told_when_to_come_again(error: grpc.RpcError) -> bool:
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in rpc_status.from_call(error).details)


@dataclass
class Gate:
    """The test's ends of the pipes: what the method says that it begins, and leave to go on."""

    folder: str
    said: Any
    go: int

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator[Gate]:
        folder.mkdir()
        for name in ("said", "go"):
            os.mkfifo(folder / name)
        go = os.open(folder / "go", os.O_RDWR)
        with os.fdopen(os.open(folder / "said", os.O_RDWR), "rb", buffering=0) as said:
            yield cls(str(folder), said, go)
        os.close(go)

    def hear(self) -> str:
        """Wait for what begins next."""
        line = b""
        while not line.endswith(b"\n"):
            line += self.said.read(1)
        return line.decode().strip()

    def let(self, count: int = 1) -> None:
        os.write(self.go, b"x" * count)


def sync(stub: explanation_pb2_grpc.ExplanationServiceStub) -> None:
    """Return when the worker has taken in all that this connection asked for until now.

    What is asked here goes all the way to the worker, behind everything else, and is refused there.
    """
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Explain(request(0, unknown="option"), timeout=60)
        assert reason_of(caught.value) == "OPTION_INVALID"
