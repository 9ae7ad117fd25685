"""Latency of Grad-CAM through the real server, without and with a synthesis of 2,000 steps that runs beside it.

A client asks again as soon as it has its answer (a closed loop), in phases that take turns: nothing else on the server,
then a synthesis on the same model and worker, which is taken back when its phase ends. So what else the machine does
hits both alike. `ratio` is how many times the p99 without a synthesis the p99 with one is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table
import skimage.data
from environment import describe
from PIL import Image

import whylight
from whylight.client import SynthesisProgress
from whylight.testing.server import running_server

STEPS = 2000
QUANTILES = (50, 90, 99)


class Course:
    """How far a synthesis is that another thread follows."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.step = 0

    def follow(self, client: whylight.Client, targets: list[int]) -> None:
        """Have pictures of `targets` made until they are done, or the client is closed."""
        with contextlib.suppress(whylight.errors.WhylightError):
            options = {"steps": STEPS}
            events = client.synthesize(
                "activation-maximization", targets, options=options, seed=0, progress_interval=0.0
            )
            for event in events:
                if isinstance(event, SynthesisProgress):
                    self.step = event.step
                    self.begun.set()


@contextlib.contextmanager
def synthesising(address: str, pictures: int) -> Iterator[Course]:
    """Have as many pictures made as one batch, from the first step until the end of the block."""
    course = Course()
    client = whylight.Client(address)
    thread = threading.Thread(target=course.follow, args=(client, list(range(100, 100 + pictures))))
    thread.start()
    try:
        if not course.begun.wait(60):
            raise RuntimeError("the synthesis did not begin within a minute")
        yield course
    finally:
        client.close()
        thread.join()


def calls(client: whylight.Client, photo: bytes, seconds: float) -> list[float]:
    """Ask for a Grad-CAM again and again, and return how many seconds each answer took."""
    taken = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        client.explain(photo, "grad-cam")
        taken.append(time.perf_counter() - started)
    return taken


def measure(address: str, pictures: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the latencies of both kinds of phase, and how many times one the other is."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).save(buffer, "JPEG", quality=90)
    photo = buffer.getvalue()
    without: list[list[float]] = []
    beside: list[list[float]] = []
    steps = spent = alone = 0.0
    with whylight.Client(address) as client:
        calls(client, photo, 2.0)
        for _ in range(rounds):
            without.append(calls(client, photo, seconds))
            with synthesising(address, pictures) as course:
                before, started = course.step, time.perf_counter()
                beside.append(calls(client, photo, seconds))
                steps += course.step - before
                spent += time.perf_counter() - started
                before, started = course.step, time.perf_counter()
                time.sleep(seconds / 8)
                alone += (course.step - before) / (time.perf_counter() - started) / rounds
    quantiles = {"without": _milliseconds(_together(without)), "with": _milliseconds(_together(beside))}
    return {
        "pictures": pictures,
        "calls": {"without": sum(map(len, without)), "with": sum(map(len, beside))},
        "milliseconds": quantiles,
        "ratio": {name: quantiles["with"][name] / quantiles["without"][name] for name in quantiles["with"]},
        "ratios_by_round": [
            {name: _milliseconds(after)[name] / _milliseconds(first)[name] for name in quantiles["with"]}
            for first, after in zip(without, beside, strict=True)
        ],
        "steps_per_second": {"beside_calls": steps / spent, "alone": alone},
    }


def _together(phases: list[list[float]]) -> list[float]:
    return [seconds for phase in phases for seconds in phase]


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {f"p{which}": float(np.quantile(seconds, which / 100)) * 1e3 for which in QUANTILES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo:efficientnet-lite0", help="source of the model")
    parser.add_argument("--weights", default="", help="its weights, where the source has none of its own")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1], help="how many are made as one batch")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20, help="length of a phase")
    parser.add_argument("--threads", type=int, default=1, help="of the worker")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="keep the rows in this file")
    arguments = parser.parse_args()
    model = {"name": "model", "source": arguments.model}
    if arguments.weights:
        model["weights"] = arguments.weights
    worker = {"devices": [arguments.device], "threads": arguments.threads}
    with running_server(models=[model], worker=worker) as server:
        rows = [measure(server.address, count, arguments.rounds, arguments.seconds) for count in arguments.pictures]
    table = rich.table.Table("pictures", "", *(f"p{which}" for which in QUANTILES), title="Grad-CAM beside a synthesis")
    for row in rows:
        for name in ("without", "with"):
            texts = [f"{value:.1f} ms" for value in row["milliseconds"][name].values()]
            table.add_row(str(row["pictures"]), name, *texts)
        table.add_row("", "ratio", *(f"{value:.2f}" for value in row["ratio"].values()))
        rich.print(row["steps_per_second"])
    rich.print(table)
    if arguments.json is not None:
        found = {
            "environment": {**describe(), "threads": arguments.threads},
            "model": arguments.model,
            "steps": STEPS,
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
