"""What telemetry costs: servers that differ in nothing else under the same closed loop, in turns of one run.

The model is tiny, so that the share of telemetry is as large as it gets: with a real network it is smaller. Each turn
loads one server after the other, in an order drawn anew. Throughput is compared within a turn; processor time of the
front end for a request is what telemetry adds to, and what a busy machine disturbs less. ``--json FILE`` keeps it all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import psutil
import rich
import rich.table
from environment import describe

from whylight.testing.server import RunningServer, running_server
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc

MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}

COLLECTOR = """
import grpc, sys
from concurrent.futures import ThreadPoolExecutor
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb2, trace_service_pb2_grpc as pb2_grpc

class Collector(pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        return pb2.ExportTraceServiceResponse()

server = grpc.server(ThreadPoolExecutor(1))
pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""


def variants(collector: str) -> dict[str, dict[str, Any]]:
    """Return the settings by which the servers differ, by the names of the rows."""
    metrics = {"metrics": {"port": 0}}
    traces = {"tracing": {"enabled": True, "endpoint": collector}}
    log = {"logging": {"format": "json", "requests": True}}
    return {
        "off": {},
        "metrics": metrics,
        "traces of 1 %": traces,
        "metrics, traces of 1 %": {**metrics, **traces},
        "a line for each request": log,
        "traces of every call": {"tracing": {"enabled": True, "endpoint": collector, "ratio": 1.0}},
    }


@dataclass
class Variant:
    """A server and what was measured of it, an entry for each turn."""

    server: RunningServer
    pids: list[int]
    metrics: str | None
    throughput: list[float] = field(default_factory=list)
    front_end: list[float] = field(default_factory=list)
    worker: list[float] = field(default_factory=list)


def variant_of(server: RunningServer) -> Variant:
    """Wait for a server, and return it with nothing measured yet."""
    server.wait_ready(600.0)
    (worker,) = (child for child in psutil.Process(server.pid).children() if "whylight.worker" in child.cmdline())
    endpoint = next((line.split()[-1] for line in server.log.splitlines() if "metrics at" in line), None)
    return Variant(server, [server.pid, worker.pid], endpoint)


def request(inputs: int) -> v1.ExplainRequest:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    tensor = v1.Tensor(dtype=v1.DATA_TYPE_UINT8, shape=pixels.shape, data=pixels.tobytes())
    return v1.ExplainRequest(
        methods=[v1.MethodCall(name="saliency")], inputs=[v1.Input(tensor=tensor) for _ in range(inputs)]
    )


def processor_time(pid: int) -> float:
    """Return the seconds that all threads of a process have run, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


async def load(address: str, sent: v1.ExplainRequest, count: int, clients: int) -> None:
    """Send `count` requests from `clients` that each ask again as soon as they have an answer."""
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
        left = iter(range(count))

        async def ask() -> None:
            for _ in left:
                await stub.Explain(sent, timeout=60)

        await asyncio.gather(*(ask() for _ in range(clients)))


def measure(variant: Variant, sent: v1.ExplainRequest, count: int, clients: int) -> None:
    """Load one server for a while."""
    before = [processor_time(pid) for pid in variant.pids]
    begin = time.perf_counter()
    asyncio.run(load(variant.server.address, sent, count, clients))
    elapsed = time.perf_counter() - begin
    front_end, worker = (processor_time(pid) - then for pid, then in zip(variant.pids, before, strict=True))
    variant.throughput.append(count / elapsed)
    variant.front_end.append(front_end / count)
    variant.worker.append(worker / count)


def scrape(variant: Variant) -> float:
    """Return the processor time of the front end for one reading of its metrics, in seconds."""
    assert variant.metrics is not None
    before = processor_time(variant.server.pid)
    for _ in range(10):
        urllib.request.urlopen(variant.metrics, timeout=30).read()
    return (processor_time(variant.server.pid) - before) / 10


def ratios(values: list[float], base: list[float]) -> list[float]:
    return [value / other for value, other in zip(values, base, strict=True)]


def summary(found: dict[str, Variant]) -> dict[str, dict[str, Any]]:
    """Return for each variant its medians, and its ratios to "off" of the same turn: median, and the middle half."""
    rows = {}
    for name, variant in found.items():
        row: dict[str, Any] = {
            "requests_per_second": statistics.median(variant.throughput),
            "front_end_microseconds": 1e6 * statistics.median(variant.front_end),
            "worker_microseconds": 1e6 * statistics.median(variant.worker),
        }
        for key in ("throughput", "front_end", "worker"):
            each = ratios(getattr(variant, key), getattr(found["off"], key))
            low, middle, high = statistics.quantiles(each, n=4)
            row[f"{key}_ratio"] = {"median": middle, "quartiles": [low, high]}
        rows[name] = row
    return rows


def show(rows: dict[str, dict[str, Any]]) -> None:
    table = rich.table.Table(
        "server", "requests/s", "to off", "middle half", "front end µs/request", "to off", "worker µs"
    )
    for name, row in rows.items():
        throughput, front_end = row["throughput_ratio"], row["front_end_ratio"]
        table.add_row(
            name,
            f"{row['requests_per_second']:.0f}",
            f"{throughput['median']:.3f}",
            "{:.3f} to {:.3f}".format(*throughput["quartiles"]),
            f"{row['front_end_microseconds']:.0f}",
            f"{front_end['median']:.3f}",
            f"{row['worker_microseconds']:.0f}",
        )
    rich.print(table)


def keep(found: dict[str, Variant], options: argparse.Namespace) -> None:
    """Show what was measured, and write it down if that is wanted."""
    rows = summary(found)
    show(rows)
    if options.json:
        kept = {key: getattr(options, key) for key in ("requests", "clients", "inputs")}
        each = {
            name: {key: getattr(variant, key) for key in ("throughput", "front_end", "worker")}
            for name, variant in found.items()
        }
        read = scrape(found["metrics"]) if "metrics" in found else None
        told = {"environment": describe(), "options": kept, "rows": rows, "scrape_seconds": read, "turns": each}
        options.json.write_text(json.dumps(told, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of turns, the one that runs then included")
    parser.add_argument("--only", nargs="+", default=[], help="names of rows besides off")
    parser.add_argument("--requests", type=int, default=100, help="to each server in each turn")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=1, help="pictures in a request")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(subprocess.Popen([sys.executable, "-c", COLLECTOR], stdin=pipe, stdout=pipe))
        assert collector.stdout is not None
        address = f"http://127.0.0.1:{int(collector.stdout.readline())}"
        servers = {
            name: stack.enter_context(
                running_server(
                    models=[MODEL],
                    worker={"devices": ["cpu"], "threads": 1},
                    plugins={"only": ["gradients"]},
                    wait=False,
                    **sections,
                )
            )
            for name, sections in variants(address).items()
            if not options.only or name in ("off", *options.only)
        }
        found = {name: variant_of(server) for name, server in servers.items()}
        sent = request(options.inputs)
        for variant in found.values():  # plans, allocations, the device's pace
            asyncio.run(load(variant.server.address, sent, options.requests, options.clients))
        order = list(found)
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            random.shuffle(order)
            for name in order:
                measure(found[name], sent, options.requests, options.clients)
        keep(found, options)


if __name__ == "__main__":
    main()
