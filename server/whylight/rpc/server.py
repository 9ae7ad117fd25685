"""Puts the services on a port, keeps health in step with the engine, and drains; knows no signal and no process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from whylight.engine.engine import State
from whylight.open_inference.messages import POOL as OPEN_INFERENCE_POOL
from whylight.open_inference.messages import SERVICE as OPEN_INFERENCE_SERVICE
from whylight.open_inference.servicer import OpenInferenceServicer, add_to_server
from whylight.rpc import health, reflection
from whylight.rpc.admission import Admission
from whylight.rpc.authentication import FREE, Authentication
from whylight.rpc.backend import Backend
from whylight.rpc.bounded import BOUND_OPTIONS, Bounded, Intake, Outlet, Streams
from whylight.rpc.catalog_servicer import CatalogServicer
from whylight.rpc.explanation_servicer import ExplanationServicer
from whylight.rpc.interceptors import Guard
from whylight.rpc.tls import tls_server_credentials
from whylight.security import Access
from whylight.security.certificates import Certificates
from whylight.settings import Settings
from whylight.telemetry.calls import Observer
from whylight.v1 import catalog_pb2, catalog_pb2_grpc, explanation_pb2, explanation_pb2_grpc

log = logging.getLogger(__name__)

EXPLANATION_SERVICE = explanation_pb2.DESCRIPTOR.services_by_name["ExplanationService"].full_name
CATALOG_SERVICE = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name

TURN_AWAY_SECONDS = 0.25
"""How long calls are turned away after the last open one was answered. A busy client sends its next call at once, and
one that reaches gRPC while it shuts down is CANCELLED there, which nobody tries again; UNAVAILABLE is."""

STOP_SECONDS = 1.0
"""How long a drained server waits for answers to leave, and for idle streams of strangers."""


class RpcServer:
    """The gRPC server over an engine. Must be made and used inside one running event loop.

    `access` says who may call; when left out, it is what the settings say. `observer` is told of every call.

    Raises:
        TokenFileError: the settings name a file of tokens that cannot be used.
        CertificateError: they name certificates that cannot be used.
    """

    def __init__(
        self, settings: Settings, backend: Backend, access: Access | None = None, observer: Observer | None = None
    ) -> None:
        self._backend = backend
        self._settings = settings.server
        self._certificates = _certificates(settings)
        access = access or settings.authentication.access()
        self._admission = Admission(access.charge_call)
        services = [EXPLANATION_SERVICE, CATALOG_SERVICE]
        if settings.open_inference.enabled:
            services.append(OPEN_INFERENCE_SERVICE)
        self._health = health.HealthServicer(*services)
        limits = settings.limits.limits()
        self._server = grpc.aio.server(
            interceptors=(Guard(observer), Authentication(access), _bounded(settings)),
            maximum_concurrent_rpcs=settings.server.calls,
            options=(
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_concurrent_streams", settings.server.calls_per_connection),
                ("grpc.max_allowed_incoming_connections", settings.server.connections),
                *BOUND_OPTIONS,
                # What this process has not got round to yet. Above them gRPC ends calls as CANCELLED, with no word why.
                ("grpc.server.max_pending_requests", settings.server.calls),
                ("grpc.server.max_pending_requests_hard_limit", settings.server.calls),
                ("grpc.max_send_message_length", settings.server.response_bytes),
                # One process has the port: a second server on it is a mistake to be told of, not to share calls with.
                ("grpc.so_reuseport", 0),
            ),
        )
        explanation_pb2_grpc.add_ExplanationServiceServicer_to_server(
            ExplanationServicer(
                backend,
                self._admission,
                limits,
                default_model=settings.default_model_name,
                response_bytes=settings.server.response_bytes,
                stream_window=settings.server.stream_window,
            ),
            self._server,
        )
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(
            CatalogServicer(backend, limits, default_model=settings.default_model_name), self._server
        )
        if settings.open_inference.enabled:
            servicer = OpenInferenceServicer(
                backend,
                self._admission,
                limits,
                serving=lambda: self._health.serving,
                default_model=settings.default_model_name,
                response_bytes=settings.server.response_bytes,
                stream_window=settings.server.stream_window,
            )
            add_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.server.reflection:
            names = (*services, health.SERVICE, reflection.SERVICE)
            reflection.enable_reflection(names, self._server, OPEN_INFERENCE_POOL)

    async def start(self) -> str:
        """Listen, and return the address with the port that is really used.

        Raises:
            OSError: the address cannot be listened on.
        """
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, tls_server_credentials(self._certificates))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        await self._server.start()
        return f"{host}:{port}"

    def update_health(self) -> None:
        """Set health to what the engine says. To be called whenever the engine's state, or that of a model, changes."""
        catalog = self._backend.catalog
        models = {
            f"{EXPLANATION_SERVICE}/{model.name}": model.state == catalog_pb2.MODEL_STATE_READY
            for model in (catalog.models if catalog is not None else ())
        }
        self._health.set(self._backend.state is State.READY, models)

    async def drain(self, hurry: asyncio.Event) -> bool:
        """Stop, in order: health says so, new calls are turned away, open ones finish, the port is closed.

        `hurry` cuts every wait short when it is set. Returns whether all open calls were answered.
        """
        serving = self._backend.state is State.READY
        self._health.drain()
        if serving:  # Otherwise no load balancer looks here, and there is nothing to wait for.
            await _unless(hurry, asyncio.sleep(self._settings.lame_duck_seconds))
        self._admission.close()
        self._backend.hasten()
        await _unless(hurry, self._admission.wait_idle(), timeout=self._settings.drain_seconds)
        if serving:
            await _unless(hurry, asyncio.sleep(TURN_AWAY_SECONDS))
        answered = self._admission.open_calls == 0
        if not answered:
            log.warning("%d calls are cut off", self._admission.open_calls)
        self._health.end()
        await self._server.stop(0 if hurry.is_set() else STOP_SECONDS)
        return answered


def _bounded(settings: Settings) -> Bounded:
    server = settings.server
    intake = Intake(server.receive_bytes // settings.limits.message_bytes, server.receive_seconds)
    return Bounded(intake, Streams(server.streams), Outlet(server.answer_bytes, server.response_bytes), free=FREE)


def _certificates(settings: Settings) -> Certificates | None:
    tls = settings.tls
    return Certificates(tls.certificate, tls.key, tls.client_ca) if tls.certificate else None


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, Any], timeout: float | None = None) -> None:
    """Wait for `work` until it is done, the event is set, or the time is over."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
