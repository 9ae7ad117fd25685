"""Metrics that say how things are just now, read when they are asked for; counts nothing.

They are read in the thread of whoever asks, beside the event loop: single numbers, and copies of small tables.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from whylight.engine.bounds import Bounds
from whylight.engine.engine import State
from whylight.engine.reports import Load
from whylight.v1 import catalog_pb2
from whylight.worker.v1 import worker_pb2

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class EngineState(Protocol):
    """What is read of the engine; `whylight.engine.Engine` is one."""

    @property
    def state(self) -> State:
        """Whether work is taken."""

    @property
    def catalog(self) -> worker_pb2.Ready | None:
        """What there is to offer."""

    @property
    def load(self) -> Load:
        """What it has before it now."""


class Workers:
    """Which workers there are, and what was last heard of them."""

    def __init__(self, size: int) -> None:
        self.up: dict[int, bool] = dict.fromkeys(range(size), False)
        self.devices: dict[int, str] = {}
        self.start_times: dict[int, float] = {}
        self.load_times: dict[tuple[int, str], float] = {}
        self.device_uses: dict[int, worker_pb2.DeviceUse] = {}


class StateCollector(Collector):
    """The gauges of one server. `pids` are those of the workers that are up.

    `draining` says whether the server turns calls away: it does so while its engine still works on what there is.
    """

    def __init__(
        self,
        engine: EngineState,
        bounds: Bounds,
        workers: Workers,
        pids: Callable[[], Mapping[int, int]],
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._bounds = bounds
        self._workers = workers
        self._pids = pids
        self._draining = draining

    def describe(self) -> Iterator[Metric]:
        """List the metrics without reading anything, as the registry asks when this is registered."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        yield from self._server()
        yield from self._queue()
        yield from self._each_worker()
        yield from self._models()

    @property
    def _serving(self) -> bool:
        return self._engine.state is State.READY and not self._draining()

    def _server(self) -> Iterator[Metric]:
        build = _gauge("whylight_build_info", "1; which program this is.", "version", "python")
        build.add_metric([version("whylight"), platform.python_version()], 1)
        yield build
        yield _value(
            "whylight_ready",
            "1 when calls are answered, 0 while loading, without a worker, or draining.",
            self._serving,
        )

    def _queue(self) -> Iterator[Metric]:
        load, bounds = self._engine.load, self._bounds
        yield _value("whylight_queue_inputs", "Inputs that wait for a worker.", load.waiting)
        yield _value("whylight_queue_limit_inputs", "Inputs that may wait.", bounds.max_queued_items)
        yield _value(
            "whylight_queue_evaluations",
            "Model evaluations that wait for a worker, long work left out.",
            load.waiting_cost,
        )
        yield _value("whylight_queue_limit_evaluations", "Model evaluations that may wait.", bounds.max_queued_cost)
        yield _value("whylight_queue_bytes", "Bytes of input that wait for a worker.", load.waiting_size)
        yield _value("whylight_queue_limit_bytes", "Bytes of input that may wait.", bounds.max_queued_bytes)
        yield _value("whylight_in_flight_inputs", "Inputs that are at workers.", load.in_flight)
        yield _count(
            "whylight_plan_cache_lookups",
            "Plans that were asked for, by whether the front end remembered them (hit) or asked a worker (miss).",
            "result",
            hit=load.plan_hits,
            miss=load.plan_misses,
        )
        yield _count(
            "whylight_response_cache_lookups",
            "Inputs whose answer was looked for among those that were given before; none without a [response_cache].",
            "result",
            hit=load.answer_hits,
            miss=load.answer_misses,
        )
        yield _value("whylight_response_cache_bytes", "Bytes of answers that are kept.", load.answer_size)

    def _each_worker(self) -> Iterator[Metric]:
        workers = self._workers
        up = _gauge("whylight_worker_up", "1 when the worker takes work.", "worker", "device")
        for number, is_up in list(workers.up.items()):
            up.add_metric([str(number), workers.devices.get(number, "")], is_up)
        yield up
        start = _gauge("whylight_worker_start_seconds", "Time that the last start of a worker took.", "worker")
        for number, seconds in list(workers.start_times.items()):
            start.add_metric([str(number)], seconds)
        yield start
        memory = _gauge(
            "whylight_worker_resident_memory_bytes", "Memory of the worker's process, without the device's.", "worker"
        )
        for number, pid in sorted(self._pids().items()):
            resident = resident_bytes(pid)
            if resident is not None:
                memory.add_metric([str(number)], resident)
        yield memory
        device = _gauge(
            "whylight_worker_device_memory_bytes",
            "Memory of its GPU that a worker holds: allocated to tensors, or reserved for them, which is never less; "
            "none for a worker on a CPU. What CUDA itself and other programs take is not counted.",
            "worker",
            "kind",
        )
        files = CounterMetricFamily(
            "whylight_worker_device_jpegs",
            "JPEG files that were meant for the GPU of a worker (worker.gpu_decode): decoded by it, or refused, and "
            "decoded on the host.",
            labels=("worker", "outcome"),
        )
        for number, use in sorted(workers.device_uses.items()):
            device.add_metric([str(number), "allocated"], use.allocated_bytes)
            device.add_metric([str(number), "reserved"], use.reserved_bytes)
            files.add_metric([str(number), "decoded"], use.decoded_files)
            files.add_metric([str(number), "refused"], use.refused_files)
        yield device
        yield files

    def _models(self) -> Iterator[Metric]:
        ready = _gauge("whylight_model_ready", "1 when the model answers calls.", "model")
        catalog = self._engine.catalog
        serving = self._serving
        for model in catalog.models if catalog else ():
            unloaded = model.state not in (catalog_pb2.MODEL_STATE_READY, catalog_pb2.MODEL_STATE_UNSPECIFIED)
            ready.add_metric([model.name], serving and not unloaded)
        yield ready
        load = _gauge("whylight_model_load_seconds", "Time that the last load of a model took.", "worker", "model")
        for (number, name), seconds in list(self._workers.load_times.items()):
            load.add_metric([str(number), name], seconds)
        yield load


def resident_bytes(pid: int) -> int | None:
    """Return the memory that a process has in RAM, None when it is gone or the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return None


def _gauge(name: str, help: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, labels=labels)


def _value(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, value=value)


def _count(name: str, help: str, label: str, **values: float) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help, labels=(label,))
    for key, value in values.items():
        family.add_metric([key], value)
    return family
