"""AdminService on a real listener, over an engine whose workers do as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc.aio

from whylight.engine import Engine, ModelChoice
from whylight.engine.pool import PoolListener
from whylight.errors import WhylightError
from whylight.rpc.admin_server import AdminServer
from whylight.rpc.admin_servicer import AdminServicer
from whylight.security import Access
from whylight.settings import Settings
from whylight.v1 import admin_pb2, admin_pb2_grpc, catalog_pb2
from whylight.wire import error_to_proto
from whylight.worker.v1 import worker_pb2


class ScriptedPool:
    """Workers that load what they are asked for when `hold` is open, or fail as `failures` says for weights."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.listener: PoolListener | None = None
        self.loads: list[tuple[int, worker_pb2.LoadModel]] = []
        self.unloads: list[tuple[int, worker_pb2.UnloadModel]] = []
        self.configured: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
        self.failures: dict[str, WhylightError] = {}
        self.hold = asyncio.Event()
        self.hold.set()
        self.asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, listener: PoolListener) -> None:
        self.listener = listener

    def up(self, worker: int, **weights: str) -> None:
        """Let a worker come up with models whose digests are those of their weights."""
        models = [self.model(name, text, 1) for name, text in sorted(weights.items())]
        self.listener.worker_up(worker, worker_pb2.Ready(device=f"cpu:{worker}", models=models))

    @staticmethod
    def model(name: str, weights: str, generation: int) -> catalog_pb2.Model:
        return catalog_pb2.Model(name=name, source="demo:x", digest=f"digest of {weights}", generation=generation)

    def send(self, worker: int, frame: worker_pb2.FrontEndFrame) -> None:
        match frame.WhichOneof("body"):
            case "load":
                self.loads.append((worker, frame.load))
                self.asked.set()
                task = asyncio.ensure_future(self._load(worker, frame.load))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "unload":
                self.unloads.append((worker, frame.unload))
                reply = worker_pb2.ModelUnloaded(name=frame.unload.name, generation=frame.unload.generation)
                asyncio.get_running_loop().call_soon(
                    self.listener.worker_said, worker, worker_pb2.WorkerFrame(unloaded=reply)
                )

    async def _load(self, worker: int, request: worker_pb2.LoadModel) -> None:
        await self.hold.wait()
        weights = json.loads(request.config)["weights"]
        reply = worker_pb2.ModelLoaded(name=request.name, generation=request.generation)
        if weights in self.failures:
            reply.error.CopyFrom(error_to_proto(self.failures[weights]))
        else:
            reply.model.CopyFrom(self.model(request.name, weights, request.generation))
        self.listener.worker_said(worker, worker_pb2.WorkerFrame(loaded=reply))

    def configure(self, worker: int, models: Any) -> None:
        self.configured[worker] = [(generation, dict(fields)) for generation, fields in models]

    def kill(self, worker: int) -> None:
        raise AssertionError("nobody is to be killed")

    async def stop(self, grace: float) -> None:
        pass


def choice(name: str, weights: str = "a", workers: tuple[int, ...] = (0,), load: bool = True) -> ModelChoice:
    return ModelChoice(name, "demo:x", {"name": name, "weights": weights}, workers, load)


class Administered:
    """A server for administrators, what it changes, and a client of it."""

    def __init__(self, engine: Engine, pool: ScriptedPool, file: dict[str, ModelChoice], address: str) -> None:
        self.engine = engine
        self.pool = pool
        self.file = file
        self.address = address
        self.channel = grpc.aio.insecure_channel(address)
        self.stub = admin_pb2_grpc.AdminServiceStub(self.channel)

    async def change(self, verb: str, name: str, metadata: Any = None) -> list[admin_pb2.ModelStatus]:
        """Load, unload or reload a model, and return everything that is told meanwhile."""
        request = getattr(admin_pb2, f"{verb}ModelRequest")(name=name)
        return [message.model async for message in getattr(self.stub, f"{verb}Model")(request, metadata=metadata)]

    async def until(self, name: str, reached: Callable[[admin_pb2.ModelStatus], bool]) -> admin_pb2.ModelStatus:
        """Wait for a status of a model, and return it."""
        while True:
            changed = self.engine.models.table.changed
            status = await self.status(name)
            if reached(status):
                return status
            await changed.wait()

    async def status(self, name: str) -> admin_pb2.ModelStatus:
        listed = await self.stub.ListModels(admin_pb2.AdminServiceListModelsRequest())
        return next(model for model in listed.models if model.name == name)


@contextlib.asynccontextmanager
async def administering(
    folder: Path,
    *choices: ModelChoice,
    workers: int = 1,
    configured: Any = None,
    tokens_file: Path | None = None,
    **admin: Any,
) -> AsyncIterator[Administered]:
    file = {one.name: one for one in choices}
    pool = ScriptedPool(workers)
    engine = Engine(pool, models=choices)
    await engine.start()
    sections = {"authentication": {"tokens_file": str(tokens_file)}} if tokens_file else {}
    settings = Settings(admin=admin or {"socket": str(folder / "admin.sock")}, **sections)
    servicer = AdminServicer(engine.models, configured or (lambda: file))
    server = AdminServer(settings, servicer, Access(tokens_file))
    address = await server.start()
    served = Administered(engine, pool, file, address)
    try:
        yield served
    finally:
        await served.channel.close()
        await server.stop()
        await engine.drain(0.0)
