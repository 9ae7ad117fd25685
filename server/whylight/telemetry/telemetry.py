"""Puts together what the settings ask for of metrics, traces and request log; counts nothing itself.

What is off costs nothing: there is no observer then, and nothing listens to the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector

from whylight.addresses import is_loopback
from whylight.engine.bounds import Bounds
from whylight.engine.pool import WorkerPool
from whylight.engine.reports import BatchReport, ItemReport
from whylight.telemetry.calls import Observer
from whylight.telemetry.endpoint import MayRead, MetricsEndpoint
from whylight.telemetry.endpoint_tls import EndpointTls
from whylight.telemetry.loop_delay import LoopDelay
from whylight.telemetry.metrics import Metrics
from whylight.telemetry.observers import All, note_queue_time
from whylight.telemetry.request_log import RequestLog
from whylight.telemetry.state import EngineState, StateCollector, Workers
from whylight.telemetry.workers import WatchedPool
from whylight.worker.v1 import worker_pb2

if TYPE_CHECKING:
    from whylight.settings import Settings
    from whylight.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long the last spans may take to leave."""


class TelemetryError(Exception):
    """What the settings ask for cannot be had; the message tells an operator why."""


class WatchedEngine(EngineState, Protocol):
    """What is listened to of the engine; `whylight.engine.Engine` is one."""

    def on_batch(self, listener: Callable[[BatchReport], None]) -> None:
        """Call `listener` with every batch that is done."""

    def on_end(self, listener: Callable[[ItemReport], None]) -> None:
        """Call `listener` with the end of every item."""


class Telemetry:
    """The telemetry of one server. `observer` is for its interceptor, None when nobody measures.

    Must be made and used inside one running event loop. `caller` names who the current code works for.

    Raises:
        TelemetryError: traces are wanted, and what they need is not installed.
    """

    def __init__(self, settings: Settings, caller: Callable[[], str] = lambda: "") -> None:
        self._settings = settings
        self._engine: WatchedEngine | None = None
        self._metrics: Metrics | None = None
        self._endpoint: MetricsEndpoint | None = None
        self._draining = False
        self._workers = Workers(len(settings.worker.devices))
        self._registry = CollectorRegistry()
        if settings.metrics.port is not None:
            self._metrics = Metrics(self._registry, self._catalog, caller)
            ProcessCollector(registry=self._registry)
            self._loop_delay = LoopDelay(self._metrics.instruments.loop_delay.observe)
        self._tracing = _tracing(settings, caller) if settings.tracing.enabled else None
        request_log = RequestLog(caller) if settings.logging.requests else None
        # The line of a request is the last thing that is said of it.
        observers: list[Observer] = [one for one in (self._metrics, self._tracing, request_log) if one is not None]
        self.observer: Observer | None = None
        if observers:
            self.observer = observers[0] if len(observers) == 1 else All(observers)

    @property
    def metrics_address(self) -> str | None:
        """Where the metrics are read, None while they are not."""
        return self._endpoint.address if self._endpoint else None

    def watched(self, pool: WorkerPool) -> WorkerPool:
        """Return the pool for the engine, so that its workers are watched."""
        return pool if self._metrics is None else WatchedPool(pool, self)

    def attach(self, engine: WatchedEngine, bounds: Bounds, pids: Callable[[], Mapping[int, int]]) -> None:
        """Listen to an engine; `pids` are the process ids of the workers that are up."""
        self._engine = engine
        if self.observer is not None:
            engine.on_end(note_queue_time)
        if self._metrics is not None:
            engine.on_end(self._metrics.item_ended)
            engine.on_batch(self._metrics.batch_done)
            self._registry.register(StateCollector(engine, bounds, self._workers, pids, lambda: self._draining))
        if self._tracing is not None:
            engine.on_batch(self._tracing.batch_done)

    def start(self, may_read: MayRead, *, needs_token: bool) -> None:
        """Serve the metrics, if they are wanted. `may_read` is asked where others can reach them.

        Raises:
            OSError: the address cannot be listened on.
            CertificateError: they are to be encrypted, and the certificate cannot be used.
        """
        settings = self._settings.metrics
        if settings.port is None:
            return
        inside = is_loopback(settings.host)
        guard = None if inside or not needs_token else may_read
        files = self._settings.tls
        tls = EndpointTls(files.certificate, files.key, files.client_ca) if files.certificate and not inside else None
        self._endpoint = MetricsEndpoint(self._registry, settings.host, settings.port, guard, tls)
        self._loop_delay.start()
        log.info("metrics at %s", self._endpoint.address)
        if not inside and not needs_token and not files.client_ca:
            log.warning("the metrics on %s are OPEN TO THE NETWORK: whoever reaches them may read", settings.host)

    def drain(self) -> None:
        """Say from now on that the server is not ready."""
        self._draining = True

    async def close(self) -> None:
        """Send the last spans, and stop serving metrics."""
        if self._tracing is not None:
            closing = asyncio.to_thread(self._tracing.close)
            try:
                await asyncio.wait_for(closing, CLOSE_SECONDS)
            except asyncio.TimeoutError:
                log.warning("the last spans could not be sent within %g seconds", CLOSE_SECONDS)
        if self._endpoint is not None:
            self._loop_delay.stop()
            await asyncio.to_thread(self._endpoint.close)

    def worker_up(self, worker: int, device: str, start_time: float) -> None:
        """Count a worker that came up."""
        assert self._metrics is not None
        self._workers.up[worker] = True
        self._workers.devices[worker] = device
        self._workers.start_times[worker] = start_time
        self._metrics.instruments.worker_starts.labels(str(worker)).inc()

    def device_used(self, worker: int, use: worker_pb2.DeviceUse) -> None:
        """Keep what a worker last said of its device."""
        self._workers.device_uses[worker] = use

    def worker_down(self, worker: int) -> None:
        """Count a worker that was lost."""
        assert self._metrics is not None
        self._workers.up[worker] = False
        self._workers.device_uses.pop(worker, None)
        self._metrics.instruments.worker_losses.labels(str(worker)).inc()

    def model_loaded(self, worker: int, model: str, load_time: float) -> None:
        """Remember how long a load took."""
        self._workers.load_times[worker, model] = load_time

    def _catalog(self) -> worker_pb2.Ready | None:
        return self._engine.catalog if self._engine is not None else None


def _tracing(settings: Settings, caller: Callable[[], str]) -> Tracing:
    try:
        from whylight.telemetry.otlp import otlp_provider
        from whylight.telemetry.tracing import Tracing
    except ModuleNotFoundError as error:
        raise TelemetryError(
            f"tracing.enabled: {error.name} is not installed; pip install 'whylight[telemetry]'"
        ) from None
    tracing = settings.tracing
    return Tracing(otlp_provider(tracing.endpoint, tracing.service_name), tracing.ratio, caller)
