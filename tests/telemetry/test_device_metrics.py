"""What workers say of their GPUs, from their frames to the metrics; the GPU is played by what a worker says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from whylight.engine import Bounds
from whylight.engine.engine import State
from whylight.engine.reports import Load
from whylight.settings import Settings
from whylight.telemetry.telemetry import Telemetry
from whylight.worker.service import ExplainerService
from whylight.worker.v1 import worker_pb2


class Pool:
    """A pool whose workers say what the test says."""

    size = 2

    async def start(self, listener: Any) -> None:
        self.listener = listener

    def send(self, worker: int, frame: worker_pb2.FrontEndFrame) -> None: ...

    def configure(self, worker: int, models: Sequence[tuple[int, Mapping[str, Any]]]) -> None: ...

    def kill(self, worker: int) -> None: ...

    async def stop(self, grace: float) -> None: ...


class Engine:
    """An engine that only listens."""

    state = State.READY
    catalog = None
    load = Load(0, 0.0, 0, 0, 0, 0)

    def on_batch(self, listener: Any) -> None: ...

    def on_end(self, listener: Any) -> None: ...

    def worker_up(self, worker: int, ready: worker_pb2.Ready) -> None: ...

    def worker_said(self, worker: int, frame: worker_pb2.WorkerFrame) -> None: ...

    def worker_down(self, worker: int, retry_after: float) -> None: ...


def told(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(generate_latest(telemetry._registry).decode())
    return {
        (sample.labels["worker"], sample.labels.get("kind") or sample.labels["outcome"]): sample.value
        for family in families
        if "_device_" in family.name
        for sample in family.samples
    }


def alive(**use: int) -> worker_pb2.WorkerFrame:
    return worker_pb2.WorkerFrame(alive=worker_pb2.Alive(device_use=worker_pb2.DeviceUse(**use)))


def test_the_last_that_a_worker_said_of_its_device_is_told_until_it_is_lost() -> None:
    async def run() -> None:
        telemetry = Telemetry(Settings(metrics={"port": 0}, worker={"devices": ["cuda:0", "cpu"]}))
        pool = Pool()
        engine = Engine()
        telemetry.attach(engine, Bounds(), dict)
        await telemetry.watched(pool).start(engine)
        assert told(telemetry) == {}
        loaded = worker_pb2.DeviceUse(allocated_bytes=100, reserved_bytes=200)
        pool.listener.worker_up(0, worker_pb2.Ready(device="cuda:0", device_use=loaded))
        pool.listener.worker_up(1, worker_pb2.Ready(device="cpu"))
        assert told(telemetry) == {
            ("0", "allocated"): 100,
            ("0", "reserved"): 200,
            ("0", "decoded"): 0,
            ("0", "refused"): 0,
        }
        pool.listener.worker_said(0, alive(allocated_bytes=5 * 2**33, reserved_bytes=6 * 2**33, decoded_files=7))
        pool.listener.worker_said(0, worker_pb2.WorkerFrame(alive=worker_pb2.Alive()))
        pool.listener.worker_said(1, worker_pb2.WorkerFrame(alive=worker_pb2.Alive()))
        assert told(telemetry) == {
            ("0", "allocated"): 5 * 2**33,
            ("0", "reserved"): 6 * 2**33,
            ("0", "decoded"): 7,
            ("0", "refused"): 0,
        }
        pool.listener.worker_down(0, 1.0)
        assert told(telemetry) == {}, "nobody knows any more"

    asyncio.run(run())


@pytest.mark.cuda
def test_a_worker_on_a_gpu_tells_what_torch_says() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    service = object.__new__(ExplainerService)
    service._device, service._jpegs = torch.device("cuda:0"), None
    held = torch.empty(2**20, device="cuda:0")
    use = service.device_use()
    assert use is not None
    assert held.nbytes <= use.allocated_bytes <= use.reserved_bytes
