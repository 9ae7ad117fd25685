"""A real gRPC server on a real socket over an engine that does what a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from whylight.engine.engine import State
from whylight.engine.work import Work
from whylight.rpc.server import RpcServer
from whylight.settings import Settings
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2


def catalog() -> worker_pb2.Ready:
    return worker_pb2.Ready(
        methods=[
            catalog_pb2.Method(name=name, summary=f"About {name}.", kind=catalog_pb2.METHOD_KIND_ATTRIBUTION)
            for name in ("cam", "grad-cam", "saliency")
        ],
        models=[
            catalog_pb2.Model(
                name=name,
                digest=f"digest of {name}",
                labels=["cat", "dog"],
                layers=[catalog_pb2.Layer(name="conv")],
                state=catalog_pb2.MODEL_STATE_READY,
            )
            for name in ("one", "two")
        ],
        plugins=[catalog_pb2.Plugin(name="cam")],
        library_versions={"torch": "2.15"},
        native_operators="no (a test)",
        device="cpu",
    )


class FakeEngine:
    """Answers every input with the names of its methods and the classes of its targets, when `hold` is open."""

    def __init__(self) -> None:
        self.state = State.READY
        self.catalog: worker_pb2.Ready | None = catalog()
        self.devices = ["cpu"]
        self.works: list[Work] = []
        self.cancelled = 0
        self.let_go = asyncio.Event()
        self.hastened = False
        self.hold = asyncio.Event()
        self.hold.set()
        self.arrived: asyncio.Queue[Work] = asyncio.Queue()
        self.answer: Callable[[Work], list[v1.InputResult]] = self.explained

    @contextlib.contextmanager
    def pinned(self, model: str) -> Iterator[catalog_pb2.Model]:
        known = self.catalog.models if self.catalog else ()
        yield next((one for one in known if one.name == model), catalog_pb2.Model(name=model))

    async def explain(self, work: Work) -> list[v1.InputResult]:
        self.works.append(work)
        self.arrived.put_nowait(work)
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.let_go.set()
            raise
        return self.answer(work)

    def hasten(self) -> None:
        self.hastened = True

    @staticmethod
    def explained(work: Work) -> list[v1.InputResult]:
        return [
            v1.InputResult(
                explained=v1.Explained(
                    explanations=[
                        v1.Explanation(method=method.name, target=target)
                        for method in work.spec.methods
                        for target in item.targets
                    ]
                )
            )
            for item in work.inputs
        ]


class Served:
    """A running server, a channel to it, and the engine under it."""

    def __init__(self, server: RpcServer, engine: FakeEngine, address: str, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.engine = engine
        self.address = address
        self.channel = channel

    def set_state(self, state: State) -> None:
        self.engine.state = state
        self.server.update_health()


@contextlib.asynccontextmanager
async def serving(**sections: Any) -> AsyncIterator[Served]:
    sections["server"] = {"port": 0, "drain_seconds": 5, **sections.get("server", {})}
    sections.setdefault("models", [{"name": name, "source": "demo:x"} for name in ("one", "two")])
    engine = FakeEngine()
    server = RpcServer(Settings(**sections), engine)
    address = await server.start()
    server.update_health()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Served(server, engine, address, channel)
    finally:
        hurry = asyncio.Event()
        hurry.set()
        await server.drain(hurry)


def request(*, classes: tuple[int, ...] = (0,), methods: tuple[str, ...] = ("grad-cam",)) -> v1.ExplainRequest:
    """A request with one input for each class."""
    return v1.ExplainRequest(
        methods=[v1.MethodCall(name=name) for name in methods],
        inputs=[v1.Input(image=b"picture", targets=[v1.Target(class_index=index)]) for index in classes],
    )


class Failure:
    """A failed call, unpacked: code, and the details of which every error has exactly one of its kind."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        status = rpc_status.from_call(error)
        assert status is not None, f"no details in {error}"
        self.code = error.code()
        self.message = status.message
        self.size = status.ByteSize()
        self.details = {detail.TypeName(): detail for detail in status.details}
        assert len(self.details) == len(status.details)
        self.trailers = dict(error.trailing_metadata())
        info = self._unpack(error_details_pb2.ErrorInfo)
        assert info is not None
        assert info.domain == "whylight"
        self.reason = info.reason
        self.metadata = dict(info.metadata)
        bad_request = self._unpack(error_details_pb2.BadRequest)
        self.fields = [violation.field for violation in bad_request.field_violations] if bad_request else []
        retry = self._unpack(error_details_pb2.RetryInfo)
        quota = self._unpack(error_details_pb2.QuotaFailure)
        self.quotas = [violation.subject for violation in quota.violations] if quota else []
        self.retry_seconds = retry.retry_delay.ToTimedelta().total_seconds() if retry else None

    def _unpack(self, kind: Any) -> Any:
        packed = self.details.get(kind.DESCRIPTOR.full_name)
        message = kind()
        return message if packed is not None and packed.Unpack(message) else None


async def failure_of(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Failure(caught.value)
