"""Every metric of a server with its labels, for pages and checks; counts nothing and needs no server."""

from __future__ import annotations

import os
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from whylight.engine.bounds import Bounds
from whylight.engine.engine import State
from whylight.engine.reports import Load
from whylight.telemetry.instruments import Instruments
from whylight.telemetry.state import StateCollector, Workers
from whylight.v1 import catalog_pb2
from whylight.worker.v1 import worker_pb2


@dataclass(frozen=True)
class ListedMetric:
    """A metric as a scrape tells of it: `name` has its ``_total``, `type` is counter, gauge or histogram."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series: a histogram has three."""
        if self.type == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


def all_metrics() -> list[ListedMetric]:
    """Return the metrics in the order in which they are served; those of the process itself are Prometheus' own."""
    registry = CollectorRegistry()
    instruments = Instruments(registry)
    workers = Workers(1)
    workers.device_uses[0] = worker_pb2.DeviceUse()
    workers.start_times[0] = workers.load_times[0, ""] = 0.0
    registry.register(StateCollector(_Still(), Bounds(), workers, lambda: {0: os.getpid()}))
    listed = []
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = instruments.labels.get(name)
        if labels is None:
            labels = tuple(family.samples[0].labels) if family.samples else ()
        listed.append(ListedMetric(name, family.type, labels, family.documentation))
    return listed


class _Still:
    """An engine with nothing to do, and one of everything."""

    state = State.READY
    catalog: worker_pb2.Ready | None = worker_pb2.Ready(models=[catalog_pb2.Model()])
    load = Load(0, 0.0, 0, 0, 0, 0)
