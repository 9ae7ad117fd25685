"""Progress through the real server, of a method that goes on only when the test lets it: no clock decides anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

import whylight
from whylight.client import Progress, Request
from whylight.testing.server import RunningServer, running_server
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc

MODEL = {"name": "resnet18", "source": "torchvision:resnet18", "weights": "random:0", "input_size": [64, 64]}
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)

PLUGIN = '''
import os
import torch
import whylight


class Stepping(whylight.Attribution):
    """Takes as many steps as it is told, and waits after each for a byte from the pipe, if there is one."""

    name = "stepping"

    class Options(whylight.Options):
        steps: int = 4
        pipe: str = ""
        size: int = 8

    def attribute(self, subject, batch, options):
        pipe = os.open(options.pipe, os.O_RDONLY) if options.pipe else None
        maps = torch.zeros(len(batch.targets), options.size, options.size)
        try:
            for step in range(1, options.steps + 1):
                maps += batch.inputs.mean((1, 2, 3))[list(batch.rows)][:, None, None]
                batch.report(step, options.steps, maps / step)
                if pipe is not None:
                    os.read(pipe, 1)
        finally:
            if pipe is not None:
                os.close(pipe)
        return maps / options.steps


@whylight.hookimpl
def whylight_methods():
    return [Stepping]
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("stepping")
    (folder / "whylight_stepping.py").write_text(PLUGIN)
    info = folder / "whylight_stepping-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: whylight-stepping\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whylight]\nstepping = whylight_stepping\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        with running_server(models=[MODEL], worker={"devices": ["cpu"], "threads": 1}) as running:
            yield running


@contextmanager
def pipe_at(path: Path) -> Iterator[int]:
    """A pipe that a method waits at. Open for reading and writing, so that nobody waits for the other to open it."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    try:
        yield end
    finally:
        os.close(end)


def check(news: list[Progress], explained: whylight.Explained) -> None:
    assert [one.done for one in news] == [1, 2, 3, 4]
    assert {(one.input_index, one.method, one.method_index, one.total) for one in news} == {(0, "stepping", 1, 4)}
    assert [why.method for why in explained.explanations] == ["grad-cam", "stepping"]
    for one in news:
        (running,) = one.maps
        np.testing.assert_allclose(running, explained.explanations[1].map, rtol=1e-5)
    assert np.array_equal(news[-1].maps[0], explained.explanations[1].map)


def request(pipe: Path, listener) -> Request:
    methods = ["grad-cam", whylight.client.MethodCall("stepping", {"pipe": str(pipe)})]
    return Request(PIXELS, methods, on_progress=listener, running_maps=True, progress_interval=0.0)


def test_each_step_is_told_before_the_next_one_is_taken(server: RunningServer, tmp_path: Path):
    news: list[Progress] = []
    with whylight.Client(server.address) as client, pipe_at(tmp_path / "pipe") as pipe:

        def listen(progress: Progress) -> None:
            news.append(progress)
            os.write(pipe, b"x")

        ((_, explained),) = client.stream([request(tmp_path / "pipe", listen)])
    check(news, explained)


async def test_each_step_is_told_to_the_asyncio_client(server: RunningServer, tmp_path: Path):
    news: list[Progress] = []
    async with whylight.AsyncClient(server.address) as client:
        with pipe_at(tmp_path / "pipe") as pipe:

            def listen(progress: Progress) -> None:
                news.append(progress)
                os.write(pipe, b"x")

            answers = [answer async for answer in client.stream([request(tmp_path / "pipe", listen)])]
    ((_, explained),) = answers
    check(news, explained)


def test_who_watches_and_who_does_not_get_the_same_bits(server: RunningServer):
    with whylight.Client(server.address) as client:
        plain = client.explain(PIXELS, "stepping")
        news: list[Progress] = []
        ((_, watched),) = client.explain_many([PIXELS], "stepping", on_progress=news.append)
    assert plain.explanation.map.tobytes() == watched.explanation.map.tobytes()
    assert all(not one.maps for one in news)


def test_a_reader_that_takes_nothing_holds_nobody_and_grows_nothing(server: RunningServer):
    """It asks for 2,000 running maps of 1 MiB and reads none of them; others are served, and memory stays."""
    sent = v1.ExplainRequest(
        methods=[v1.MethodCall(name="stepping")],
        inputs=[v1.Input(tensor=v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=PIXELS.shape, data=PIXELS.tobytes()))],
    )
    sent.methods[0].options.update({"steps": 2000, "size": 512})
    watched = v1.StreamExplainRequest(id="a", request=sent, progress=v1.ProgressSpec(running_maps=True))
    watched.progress.min_interval.SetInParent()
    with grpc.insecure_channel(server.address) as channel, whylight.Client(server.address) as client:
        expected = client.explain(OTHER, "grad-cam").explanation.map
        before = peak_memory(server.pid)
        answers = explanation_pb2_grpc.ExplanationServiceStub(channel).StreamExplain(iter([watched]))
        first = next(answers)
        assert (first.WhichOneof("outcome"), len(first.progress.maps)) == ("progress", 1)
        # Behind the batch that reports: when this is answered, all 2,000 reports have been made.
        assert np.array_equal(client.explain(OTHER, "grad-cam").explanation.map, expected)
        assert peak_memory(server.pid) - before < 200 * 2**20
        rest = list(answers)
    assert rest[-1].HasField("response")
    assert all(one.HasField("progress") for one in rest[:-1])
    assert len(rest) < 200


def peak_memory(pid: int) -> int:
    """Most bytes of memory that a process has had."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
