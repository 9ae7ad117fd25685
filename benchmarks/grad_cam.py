"""Grad-CAM of ResNet-50 at 224 x 224: plain forward, whylight in process and over gRPC from JPEG bytes, and its peers.

Everything is measured in one run: what shares a process takes turns, so that what else the machine does hits all
alike; the served rows come right after, each beside plain forwards of its own. ``--json FILE`` keeps the rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rich
import rich.console
import rich.table
import skimage.data
import torch
from contestants import CLASS, CONTESTANTS, SOURCE
from environment import describe
from interleaved import interleaved, median_ratio
from PIL import Image

from whylight.testing.server import running_server

BASE = "plain forward, whylight's layout"
SERVED = "whylight over gRPC, from JPEG"


def waited_for(run: Callable[[], object]) -> Callable[[], object]:
    """Return `run`, ending only when the GPU has done it."""

    def call() -> object:
        result = run()
        torch.cuda.synchronize()
        return result

    return call


def contestant(name: str, batch: int, device: str) -> Callable[[], object]:
    """Return a call of a contestant that ends when it is done."""
    run = CONTESTANTS[name](batch, device)
    return run if device == "cpu" else waited_for(run)


def measure_in_process(batch: int, seconds: float, device: str) -> list[dict[str, Any]]:
    """Return a row for each contestant at one batch size."""
    times = interleaved({name: contestant(name, batch, device) for name in CONTESTANTS}, seconds)
    return [
        {
            "what": name,
            "batch": batch,
            "explanations_per_second": batch / statistics.median(taken),
            "time_over_plain": median_ratio(times, name, BASE),
            "p50_ms": statistics.median(taken) * 1e3,
            "p99_ms": float(np.quantile(taken, 0.99)) * 1e3,
            "peak_mib": peak_memory(name, batch, device),
        }
        for name, taken in times.items()
    ]


def peak_memory(name: str, batch: int, device: str) -> float:
    """Return by how many MiB a fresh process grows at most, over what it has when libraries and weights are loaded."""
    command = [sys.executable, __file__, "--memory-of", name, "--batches", str(batch), "--device", device]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak_memory(name: str, batch: int, device: str) -> None:
    """Run one contestant three times, and print by how much the process's peak grew; on a GPU, that of its memory."""
    run = contestant(name, batch, device)
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now, the parent's included
        before = resident_peak()
    for _ in range(3):
        run()
    grown = (
        (resident_peak() - before) / 1024 if device == "cpu" else (torch.cuda.max_memory_allocated() - before) / 2**20
    )
    print(grown)


def resident_peak() -> int:
    """Return the most memory that this process has had since its peak was forgotten, in KiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0])


def measure_served(batch: int, seconds: float, picture: Path, device: str) -> dict[str, Any]:
    """Return the row of the server at saturation: three times as many callers as a batch holds, in two processes.

    What ends within a time counts, so that neither the first batches, which are not full, nor the last ones do.
    """
    plain = interleaved({BASE: contestant(BASE, batch, device)}, seconds / 2)[BASE]
    model = {"name": "resnet50", "source": SOURCE, "weights": "random:0"}
    with running_server(models=[model], batching={"max_batch": batch}, worker={"devices": [device]}) as server:
        load = [sys.executable, "-m", "whylight", "bench", str(picture), "--server", server.address, "--json"]
        load += ["--target", str(CLASS), "--concurrency", str(3 * batch), "--duration", str(seconds), "--settle", "3"]
        before = cpu_seconds(server.pid)
        report = json.loads(subprocess.run(load, capture_output=True, text=True, check=True).stdout)
        spent = {name: seconds - before[name] for name, seconds in cpu_seconds(server.pid).items()}
    plain += interleaved({BASE: contestant(BASE, batch, device)}, seconds / 2)[BASE]
    throughput = report["throughput"]
    return {
        "what": SERVED,
        "batch": batch,
        "explanations_per_second": throughput,
        "time_over_plain": (batch / throughput) / statistics.median(plain),
        "p50_ms": report["latency"]["p50"] * 1e3,
        "p99_ms": report["latency"]["p99"] * 1e3,
        "mean_batch_size": report["mean_batch_size"],
        "calls": report["calls"],
        "cpu_ms_per_call": {name: seconds * 1e3 / report["sent"] for name, seconds in spent.items()},
    }


def cpu_seconds(pid: int) -> dict[str, float]:
    """Return how long the front end and its worker have had a processor: where a served call's time goes."""
    front_end = psutil.Process(pid)
    (worker,) = front_end.children()
    return {name: sum(process.cpu_times()[:2]) for name, process in (("front end", front_end), ("worker", worker))}


def print_table(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Print the rows for people."""
    table = rich.table.Table(title=f"Grad-CAM, ResNet-50, 224 x 224, float32 ({facts['processor']}, {facts['device']})")
    for column in ("batch", "what", "explanations/s", "time / plain forward", "p50 ms", "p99 ms", "peak MiB"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in sorted(rows, key=lambda row: row["batch"]):
        peak = row.get("peak_mib")
        table.add_row(
            str(row["batch"]),
            row["what"],
            f"{row['explanations_per_second']:.1f}",
            f"{row['time_over_plain']:.2f}",
            f"{row['p50_ms']:.0f}",
            f"{row['p99_ms']:.0f}",
            "" if peak is None else f"{peak:.0f}",
        )
    rich.console.Console(width=120).print(table)
    for row in rows:
        if "cpu_ms_per_call" in row:
            spent = ", ".join(f"{name} {spent:.1f}" for name, spent in row["cpu_ms_per_call"].items())
            rich.print(f"served, batch {row['batch']}: processor ms per call, warm-up included: {spent}")
    rich.print(facts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="for each batch size, in process; half of it served"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch; all cores if left out")
    parser.add_argument("--json", type=Path, help="file to keep the rows in")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_peak_memory(arguments.memory_of, arguments.batches[0], arguments.device)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "chelsea.jpg"
        Image.fromarray(skimage.data.chelsea()).save(picture, quality=90)
        for batch in arguments.batches:
            rows += measure_in_process(batch, arguments.seconds, arguments.device)
            rows.append(measure_served(batch, arguments.seconds / 2, picture, arguments.device))
    facts = describe("torchvision", "grad-cam", "captum", "grpcio")
    print_table(rows, facts)
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
