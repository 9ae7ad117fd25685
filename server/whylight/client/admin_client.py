"""The client of a server's administrators, blocking: loads, unloads and reloads models; knows no pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from whylight.client.connection import Connection, choose_credentials
from whylight.client.failures import error_from_call
from whylight.errors import WhylightError
from whylight.v1 import admin_pb2, admin_pb2_grpc, catalog_pb2
from whylight.wire import error_from_proto

_PAGE = 1000


@dataclass(frozen=True)
class ModelWorker:
    """What a worker has of a model: `generations` of the versions in its memory, the oldest first."""

    worker: int
    device: str
    up: bool
    generations: tuple[int, ...]


@dataclass(frozen=True)
class ModelStatus:
    """What became of a model.

    `state` is unloaded, loading, ready, unloading or failed; `generation` and `digest` are those of the version that
    answers calls, since `ready_time`; `next_generation` that of the version that is to take over, 0 without one;
    `ending_calls` counts those at work on versions that take no more; `error` says why the last load failed.
    """

    name: str
    state: str
    source: str
    digest: str
    generation: int
    ready_time: datetime | None
    next_generation: int
    ending_calls: int
    workers: tuple[ModelWorker, ...]
    error: WhylightError | None


class AdminClient:
    """A connection to the listener of a server's administrators (`[admin]` in its settings).

    Nothing is tried again by itself. A deadline ends the waiting, not what was asked for: that the server does to its
    end, and `models` tells what became of it.

    Args:
        address: ``unix:/run/whylight/admin.sock`` or ``host:port``.
        token: bearer token with the scope ``admin``, or a function that returns it; a socket needs none.
        tls, ca, certificate, key, credentials, options: as those of `Client`.

    Raises:
        ValueError: a token that would travel in the clear, or settings that do not go together.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | Callable[[], str] | None = None,
        tls: bool = False,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        credentials = choose_credentials(credentials, tls, ca, certificate, key)
        self._connection = Connection(address, credentials, token, options=tuple((options or {}).items()))
        settings = self._connection.channel_options()
        self._channel = (
            grpc.insecure_channel(address, settings)
            if credentials is None
            else grpc.secure_channel(address, credentials, settings)
        )
        self._stub = admin_pb2_grpc.AdminServiceStub(self._channel)

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. What was asked for goes on at the server."""
        self._channel.close()

    def models(self, *, deadline: float | None = 30.0) -> list[ModelStatus]:
        """Return the models that the server was set up with, and what became of each, in the order of their names."""
        found: list[ModelStatus] = []
        request = admin_pb2.AdminServiceListModelsRequest(page_size=_PAGE)
        while True:
            try:
                answer = self._stub.ListModels(request, timeout=deadline, metadata=self._connection.metadata())
            except grpc.RpcError as error:
                raise error_from_call(error) from error
            found += map(_status, answer.models)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def load(
        self, name: str, *, on_status: Callable[[ModelStatus], None] = lambda _: None, deadline: float | None = None
    ) -> ModelStatus:
        """Load a model that is configured and not loaded, and return when it answers calls.

        `on_status` is called with what becomes of it meanwhile.

        Raises:
            NotFound: the configuration has no model of this name.
            Unsupported: it could not be loaded (MODEL_LOAD_FAILED), or the configuration is wrong now.
            Unavailable: something is being done to it already (MODEL_BUSY), or a worker was lost or took too long.
            DeadlineExceeded: it is not ready yet.
        """
        return self._change(self._stub.LoadModel, admin_pb2.LoadModelRequest(name=name), on_status, deadline)

    def unload(
        self, name: str, *, on_status: Callable[[ModelStatus], None] = lambda _: None, deadline: float | None = None
    ) -> ModelStatus:
        """Unload a model, and return when the calls that it had have ended and it is freed.

        Raises:
            NotFound, Unavailable, DeadlineExceeded: as `load`.
        """
        return self._change(self._stub.UnloadModel, admin_pb2.UnloadModelRequest(name=name), on_status, deadline)

    def reload(
        self, name: str, *, on_status: Callable[[ModelStatus], None] = lambda _: None, deadline: float | None = None
    ) -> ModelStatus:
        """Put a new version in the place of a loaded one, and return when that answers and the old one is freed.

        No call is dropped. When the new version cannot be loaded, the old one goes on.

        Raises:
            Unsupported: it could not be loaded, or is not loaded (MODEL_NOT_LOADED), or the configuration is wrong now.
            NotFound, Unavailable, DeadlineExceeded: as `load`.
        """
        return self._change(self._stub.ReloadModel, admin_pb2.ReloadModelRequest(name=name), on_status, deadline)

    def _change(
        self, rpc: Any, request: Any, on_status: Callable[[ModelStatus], None], deadline: float | None
    ) -> ModelStatus:
        call = rpc(request, timeout=deadline, metadata=self._connection.metadata())
        status: ModelStatus | None = None
        for status in _told(call):
            on_status(status)
        assert status is not None  # a change that has ended has told so
        return status


def _told(call: Any) -> Iterator[ModelStatus]:
    try:
        for answer in call:
            yield _status(answer.model)
    except grpc.RpcError as error:
        raise error_from_call(error) from error
    finally:
        call.cancel()


def _status(message: admin_pb2.ModelStatus) -> ModelStatus:
    return ModelStatus(
        message.name,
        catalog_pb2.ModelState.Name(message.state).removeprefix("MODEL_STATE_").lower(),
        message.source,
        message.digest,
        message.generation,
        message.ready_time.ToDatetime(timezone.utc) if message.HasField("ready_time") else None,
        message.next_generation,
        message.ending_calls,
        tuple(ModelWorker(one.worker, one.device, one.up, tuple(one.generations)) for one in message.workers),
        error_from_proto(message.error) if message.HasField("error") else None,
    )
