"""The server as a process: puts engine, workers and gRPC together, and ends them in order; imports no torch.

The first SIGTERM or SIGINT drains: health says NOT_SERVING, new calls are turned away, calls in flight are finished,
the workers stop. The second one does not wait. SIGHUP has the tokens read again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Mapping

from whylight.addresses import is_loopback
from whylight.engine import Bounds, Engine, LocalPool
from whylight.engine.local_pool import Backoff
from whylight.engine.model_table import ModelChoice
from whylight.engine.pool import WorkerStartError
from whylight.engine.response_cache import ResponseCache
from whylight.hang_up import ignore_hang_up
from whylight.rpc.admin_server import AdminServer
from whylight.rpc.admin_servicer import AdminServicer
from whylight.rpc.request_id import current_request_id
from whylight.rpc.server import RpcServer
from whylight.security import ANONYMOUS, Access, Scope, TokenFileError, bearer_token, current_caller
from whylight.security.certificates import CertificateError
from whylight.settings import ConfigurationError, Settings, load_settings
from whylight.telemetry.calls import Observer
from whylight.telemetry.logs import configure_logging
from whylight.telemetry.telemetry import Telemetry, TelemetryError
from whylight.v1 import catalog_pb2
from whylight.worker.config import PluginChoice, WorkerConfig
from whylight.worker.v1 import worker_pb2

log = logging.getLogger("whylight.serve")

READY_LINE = "whylight: serving at "
"""What the only line on standard output begins with; the address follows. Whether calls are answered, health tells."""

ADMIN_LINE = "administration at "
"""What the line of the log begins with that tells where AdminService is; the address follows."""

WORKER_EXIT_SECONDS = 10.0
"""How long an idle worker may take to exit before it is killed."""

if sys.platform == "win32":
    from asyncio import run as run_loop
else:
    from uvloop import run as run_loop


def main(settings: Settings, reread: Callable[[], Settings] = load_settings) -> int:
    """Serve until a signal says otherwise. `reread` reads the settings again, for what an administrator asks.

    Returns the exit code: 0 when every call was answered, 1 when the server could not start or calls were cut off.
    """
    configure_logging(
        settings.server.log_level, settings.logging.format, request_id=current_request_id, caller=_caller_name
    )
    return run_loop(_serve(settings, reread))


async def _serve(settings: Settings, reread: Callable[[], Settings]) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
    try:
        access = settings.authentication.access()
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, access.reload)
        telemetry = Telemetry(settings, _caller_name)
    except (TokenFileError, TelemetryError) as error:
        log.error("%s", error)
        return 1
    pool = _pool(settings)
    kept = settings.response_cache.bytes
    bounds = _bounds(settings)
    engine = Engine(
        telemetry.watched(pool),
        bounds,
        models=tuple(settings.model_choices().values()),
        load_timeout=settings.worker.start_timeout_seconds,
        stuck_after=settings.worker.stuck_after_seconds,
        cache=ResponseCache(kept) if kept else None,
        charge=access.charge_evaluations,
    )
    telemetry.attach(engine, bounds, lambda: pool.pids)
    try:
        server = RpcServer(settings, engine, access, telemetry.observer)
        admin = _admin_server(settings, engine, access, telemetry.observer, reread) if settings.admin.enabled else None
    except CertificateError as error:
        log.error("%s", error)
        return 1
    engine.on_state_change(lambda _: server.update_health())
    engine.on_models_change(server.update_health)
    try:
        telemetry.start(
            lambda header: access.check(bearer_token(header), Scope.METRICS), needs_token=access.needs_token
        )
        address = await server.start()
        if admin is not None:
            log.info("%s%s", ADMIN_LINE, await admin.start())
    except (OSError, CertificateError) as error:
        log.error("%s", error)
        return 1
    print(f"{READY_LINE}{address}", flush=True)
    _warn_if_open(settings)
    _warn_if_streams_are_narrow(settings)
    started = await _start(engine, stop)
    if started and engine.catalog is not None:
        _report(engine.catalog, engine.devices)
        gc.collect()  # What is here now stays: to look through it at every collection would stop all calls for 20 ms.
        gc.freeze()
        await stop.wait()
    log.info("stopping")
    telemetry.drain()
    answered = await server.drain(hurry)
    if admin is not None:
        await admin.stop()
    await _stop_workers(engine, pool, hurry, in_order=started and answered)
    await telemetry.close()
    log.info("stopped")
    return 0 if answered and (started or stop.is_set()) else 1


def _admin_server(
    settings: Settings, engine: Engine, access: Access, observer: Observer | None, reread: Callable[[], Settings]
) -> AdminServer:
    workers = len(settings.worker.devices)

    def configured() -> Mapping[str, ModelChoice]:
        choices = reread().model_choices(workers)
        for choice in choices.values():
            if strangers := [number for number in choice.workers if number >= workers]:
                raise ConfigurationError(
                    f"models: {choice.name!r} is for worker {strangers[0]}; this server was started with {workers}"
                )
        return choices

    return AdminServer(settings, AdminServicer(engine.models, configured), access, observer)


async def _start(engine: Engine, stop: asyncio.Event) -> bool:
    """Start the engine, unless it is told to stop before it is up. Returns whether it is up."""
    starting, stopping = asyncio.ensure_future(engine.start()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return False
        starting.result()
        return True
    except WorkerStartError as error:
        log.error("%s", error)
        return False
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def _stop_workers(engine: Engine, pool: LocalPool, hurry: asyncio.Event, *, in_order: bool) -> None:
    """Let the workers exit, and kill them when the second signal comes."""
    draining = asyncio.ensure_future(engine.drain(WORKER_EXIT_SECONDS if in_order and not hurry.is_set() else 0.0))
    hurrying = asyncio.ensure_future(hurry.wait())
    await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        for worker in range(pool.size):
            pool.kill(worker)
    hurrying.cancel()
    await draining


def _pool(settings: Settings) -> LocalPool:
    # A worker takes the first of its models for the default one.
    choices = sorted(settings.model_choices().values(), key=lambda one: one.name != settings.default_model_name)
    worker = settings.worker
    plugins = settings.plugins
    return LocalPool(
        [
            WorkerConfig(
                device=device,
                threads=worker.threads or None,
                decode_threads=worker.decode_threads,
                niceness=worker.niceness,
                gpu_decode=worker.gpu_decode,
                keep_memory_bytes=worker.keep_memory_bytes,
                models=tuple(choice.fields for choice in choices if choice.load and number in choice.workers),
                warm_up_batches=(1,) if worker.warm_up_batches is None else tuple(worker.warm_up_batches),
                gpu_warm_up_batches=(settings.batching.max_batch,) if worker.warm_up_batches is None else (),
                data_sets=settings.data_sets,
                cache_folder=settings.cache_folder,
                plugins=PluginChoice(
                    only=None if plugins.only is None else tuple(plugins.only),
                    block=tuple(plugins.block),
                    strict=plugins.strict,
                ),
                limits=settings.limits.limits(),
                log_level=settings.server.log_level.upper(),
            )
            for number, device in enumerate(worker.devices)
        ],
        start_timeout=worker.start_timeout_seconds,
        backoff=Backoff(first=worker.restart_backoff_seconds, most=worker.restart_backoff_max_seconds),
    )


def _bounds(settings: Settings) -> Bounds:
    batching, queue = settings.batching, settings.queue
    return Bounds(
        max_batch_items=batching.max_batch,
        max_batch_cost=batching.max_batch_cost,
        max_batch_bytes=batching.max_batch_bytes,
        max_delay=batching.max_delay_seconds,
        max_queued_items=queue.items,
        max_queued_cost=queue.cost,
        max_queued_bytes=queue.bytes,
        max_call_seconds=queue.call_seconds,
        bulk_share=queue.bulk_share,
        long_call_cost=settings.long_work.call_cost,
        long_queued_cost=settings.long_work.queue_cost,
        long_call_seconds=settings.long_work.call_seconds,
    )


def _report(catalog: worker_pb2.Ready, devices: list[str]) -> None:
    for plugin in catalog.plugins:
        name = f"plugin {plugin.name} ({plugin.distribution} {plugin.version})"
        offers = ", ".join([*plugin.methods, *(f"{scheme}:" for scheme in plugin.model_sources)])
        if plugin.state == catalog_pb2.PLUGIN_STATE_ACTIVE:
            log.info("%s offers %s", name, offers or "nothing")
        elif plugin.state == catalog_pb2.PLUGIN_STATE_BLOCKED:
            log.info("%s is blocked", name)
        else:
            log.error("%s is NOT in use: %s", name, plugin.error)
    for model in catalog.models:
        if model.state == catalog_pb2.MODEL_STATE_READY:
            log.info("model %s (%s) is loaded, digest %s", model.name, model.source, model.digest)
        else:
            log.info("model %s (%s) is not loaded", model.name, model.source)
    if catalog.native_operators.startswith("yes"):
        log.info("native operators: %s", catalog.native_operators)
    else:
        log.warning("NO NATIVE OPERATORS, everything is slower than it could be: %s", catalog.native_operators)
    log.info("ready, on %s", ", ".join(devices))


def _warn_if_open(settings: Settings) -> None:
    """Say loudly what is missing where others can reach the server."""
    if is_loopback(settings.server.host):
        return
    tls = settings.tls
    missing = []
    if not tls.certificate and not tls.ends_elsewhere:
        missing.append("no encryption ([tls])")
    if not settings.authentication.tokens_file and not tls.client_ca:
        missing.append("no tokens and no client certificates: whoever reaches it may use it ([authentication])")
    if missing:
        log.warning("OPEN TO THE NETWORK: listening on %s with %s", settings.server.host, " and ".join(missing))


def _warn_if_streams_are_narrow(settings: Settings) -> None:
    """Say that a stream of single pictures cannot fill a batch: it has no more requests at work than its window."""
    window, batch = settings.server.stream_window, settings.batching.max_batch
    if window < batch:
        log.warning("server.stream_window (%d) is below batching.max_batch (%d): no stream fills one", window, batch)


def _caller_name() -> str:
    """Return the name of the token that the current call came with, empty where there is none."""
    caller = current_caller()
    return "" if caller is ANONYMOUS else caller.name


def main_from_environment() -> int:
    """Serve with the settings of the environment and of the file that WHYLIGHT_CONFIG names."""
    ignore_hang_up()
    try:
        settings = load_settings()
    except ConfigurationError as error:
        print(f"whylight: {error}", file=sys.stderr)
        return 2
    return main(settings)


if __name__ == "__main__":
    sys.exit(main_from_environment())
