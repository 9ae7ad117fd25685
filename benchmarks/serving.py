"""What serving costs: the worker's own code fed in its own process, and the same through gRPC, in turns of one run.

Both take the same JPEG bytes and give the same answers, in batches of the same size, with as many threads. What differs
is the front end, the socket between the processes, gRPC, and the clients, which share the machine. Wall time is what a
user has; processor time tells what of it is the server's own, also on a busy machine. ``--json FILE`` keeps the rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import rich
import rich.console
import rich.table
import skimage.data
import torch
from environment import describe
from own_server import favour, reach
from PIL import Image

from whylight.cli.load.spec import Kind, Load
from whylight.cli.load.together import put_under_load
from whylight.client.requests import Request, build_request
from whylight.outputs import MapOutput, PictureOutput
from whylight.testing.server import RunningServer, running_server

OUTPUTS: dict[str, Any] = {"map": MapOutput, "picture": PictureOutput}
PICTURES = ("chelsea", "astronaut", "coffee", "rocket")


def make_requests(method: str, outputs: list[str]) -> list[bytes]:
    """Return a request for each of four photographs, as JPEG files of quality 90."""
    requests = []
    for name in PICTURES:
        file = io.BytesIO()
        Image.fromarray(getattr(skimage.data, name)()).save(file, "JPEG", quality=90)
        request = Request(file.getvalue(), method, outputs=[OUTPUTS[output]() for output in outputs])
        requests.append(build_request(request).SerializeToString())
    return requests


class Direct:
    """The worker that is fed in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def running(cls, config: dict[str, Any], requests: list[bytes], batch: int) -> Iterator[Direct]:
        """Start it."""
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for number, request in enumerate(requests):
                paths.append(f"{folder}/{number}")
                Path(paths[-1]).write_bytes(request)
            command = [sys.executable, str(Path(__file__).with_name("direct_worker.py"))]
            pipe = subprocess.PIPE
            # In a session of its own, as a server's worker is: Linux shares the processor out by session.
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
                direct = cls(process)
                try:
                    answer = direct._ask({"config": config, "requests": paths, "batch": batch})
                    if answer != "ready":
                        raise RuntimeError(f"the direct worker did not start: {answer}")
                    yield direct
                finally:
                    process.kill()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def run(self, settle: float, seconds: float) -> dict[str, Any]:
        """Feed it for `settle` seconds, and then for `seconds`, of which it tells."""
        row: dict[str, Any] = json.loads(self._ask({"settle": settle, "seconds": seconds}))
        if row["failed"]:
            raise RuntimeError(f"{row['failed']} calls failed")
        return row

    def _ask(self, question: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


class Spent:
    """How long the processes of a server have had a processor within a window that begins later."""

    def __init__(self, server: RunningServer) -> None:
        front_end = psutil.Process(server.pid)
        (worker,) = front_end.children()
        self._processes = {"front end": front_end, "worker": worker}
        self.seconds: dict[str, float] = {}
        self.thread: threading.Thread | None = None

    def watch(self, begin: float, seconds: float) -> None:
        """Measure from `begin` on."""

        def measure() -> None:
            time.sleep(max(0.0, begin - time.monotonic()))
            before = self._read()
            time.sleep(max(0.0, begin + seconds - time.monotonic()))
            after = self._read()
            self.seconds = {name: after[name] - before[name] for name in after}

        self.thread = threading.Thread(target=measure)
        self.thread.start()

    def _read(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}


def run_served(server: RunningServer, load: Load) -> dict[str, Any]:
    """Put the server under load and return throughput and processor times."""
    spent = Spent(server)
    assert load.duration is not None
    duration = load.duration
    report = put_under_load(load, on_begin=lambda begin: spent.watch(begin + load.settle, duration))
    assert spent.thread is not None
    spent.thread.join()
    facts = report.as_json()
    if facts["errors"]:
        raise RuntimeError(f"calls failed: {facts['errors']}")
    calls = facts["throughput"] * duration
    each = {name: seconds * 1e3 / calls for name, seconds in spent.seconds.items()}
    return {
        "throughput": facts["throughput"],
        "mean_batch_size": facts["mean_batch_size"],
        "latency": facts["latency"],
        "cpu_ms_per_call": {**each, "clients": facts["processor_ms_per_call"]},
    }


def measure(arguments: argparse.Namespace, batch: int, outputs: list[str]) -> dict[str, Any]:
    """Return the medians over turns of all contestants at one batch size."""
    requests = make_requests(arguments.method, outputs)
    model = {"name": "m", "source": arguments.model, "weights": "random:0"}
    if arguments.model.startswith("python:"):
        del model["weights"]
    worker = {"devices": [arguments.device], "threads": arguments.threads or 0}
    config = {"device": arguments.device, "models": [model], "log_level": "WARNING"}
    if arguments.threads:
        config["threads"] = arguments.threads
    turns: dict[str, list[dict[str, Any]]] = {"direct": [], "unary": [], "stream": []}
    with (
        Direct.running(config, requests, batch) as direct,
        running_server(timeout=600, models=[model], worker=worker, batching={"max_batch": batch}) as server,
    ):
        load = Load(
            reach(server),
            (Kind(arguments.method, 1.0, tuple(requests)),),
            concurrency=int(batch * arguments.callers),
            duration=arguments.seconds,
            settle=arguments.settle,
            warm_up=batch,
            processes=2,
        )
        (served_worker,) = psutil.Process(server.pid).children()
        for pid in (os.getpid(), direct.pid, served_worker.pid):
            favour(pid, arguments.nice)
        for _ in range(arguments.turns):
            turns["direct"].append(direct.run(arguments.settle, arguments.seconds))
            for mode in ("unary", "stream"):
                served = Load(**{**vars(load), "stream": mode == "stream"})
                turns[mode].append(run_served(server, served))
    return row_of(turns, batch, outputs)


def row_of(turns: dict[str, list[dict[str, Any]]], batch: int, outputs: list[str]) -> dict[str, Any]:
    """Return the medians of what each turn gave, and of the ratios within each turn."""
    direct = turns["direct"]
    row: dict[str, Any] = {
        "batch": batch,
        "outputs": outputs,
        "direct": {
            "throughput": statistics.median(turn["throughput"] for turn in direct),
            "cpu_ms_per_call": statistics.median(turn["cpu_ms_per_call"] for turn in direct),
            "answer_bytes": direct[0]["answer_bytes"],
        },
        "turns": turns,
    }
    for mode in ("unary", "stream"):
        both = list(zip(turns[mode], direct, strict=True))
        spent = {
            name: statistics.median(turn["cpu_ms_per_call"][name] for turn in turns[mode])
            for name in ("worker", "front end", "clients")
        }
        row[mode] = {
            "throughput": statistics.median(turn["throughput"] for turn in turns[mode]),
            "mean_batch_size": statistics.median(turn["mean_batch_size"] for turn in turns[mode]),
            "cpu_ms_per_call": spent,
            "of_direct_wall": statistics.median(a["throughput"] / b["throughput"] for a, b in both),
            # What the direct worker spends on a call, of what the server's processes do; and with the clients' part.
            "of_direct_cpu": statistics.median(
                b["cpu_ms_per_call"] / (a["cpu_ms_per_call"]["worker"] + a["cpu_ms_per_call"]["front end"])
                for a, b in both
            ),
            "of_direct_cpu_with_clients": statistics.median(
                b["cpu_ms_per_call"] / sum(a["cpu_ms_per_call"].values()) for a, b in both
            ),
        }
    return row


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print the rows for people."""
    table = rich.table.Table(title=title)
    columns = ("batch", "outputs", "what", "calls/s", "wall", "processor", "with clients")
    for column in (*columns, "ms: worker", "front end", "clients", "batch size"):
        table.add_column(column, justify="right")
    for row in rows:
        direct = row["direct"]
        asked = (str(row["batch"]), "+".join(row["outputs"]))
        spent = f"{direct['cpu_ms_per_call']:.2f}"
        table.add_row(*asked, "direct", f"{direct['throughput']:.1f}", "1", "1", "1", spent, "", "", asked[0])
        for mode in ("unary", "stream"):
            served = row[mode]
            shares = (served[name] for name in ("of_direct_wall", "of_direct_cpu", "of_direct_cpu_with_clients"))
            times = (served["cpu_ms_per_call"][name] for name in ("worker", "front end", "clients"))
            table.add_row(
                *("", "", mode, f"{served['throughput']:.1f}"),
                *(f"{share:.3f}" for share in shares),
                *(f"{each:.2f}" for each in times),
                f"{served['mean_batch_size']:.1f}",
            )
    rich.console.Console(width=140).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[8])
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--method", default="grad-cam")
    parser.add_argument("--output", action="append", choices=list(OUTPUTS), help="repeatable; a map if left out")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each turn of each contestant")
    parser.add_argument("--settle", type=float, default=3.0, help="seconds before each turn that do not count")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--callers", type=float, default=3.0, help="callers for each place of a batch")
    parser.add_argument(
        "--nice", type=int, default=0, help="of the sessions that are measured; below 0 on a busy machine"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch; all cores if left out")
    parser.add_argument("--json", type=Path, help="file to keep the rows in")
    arguments = parser.parse_args()
    outputs = arguments.output or ["map"]
    if arguments.threads:
        torch.set_num_threads(arguments.threads)  # for what `describe` says
    rows = [measure(arguments, batch, outputs) for batch in arguments.batches]
    facts = describe("torchvision", "grpcio", "protobuf", "uvloop")
    print_table(rows, f"{arguments.method}, {arguments.model} ({facts['processor']}, {facts['device']})")
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
