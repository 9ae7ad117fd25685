"""A hundred thousand requests to one server, and what its processes hold meanwhile: nothing may grow.

A tiny model, so that what is asked for passes through everything often: calls and streams, maps, pictures and boxes,
two methods at once, and files that are no pictures. The exit code is 1 when memory grew by 2 % or more after the
warm-up, when file descriptors or threads did, or when a call had not exactly one answer. ``--json FILE`` keeps the
samples.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import rich
from environment import describe
from own_server import reach
from watching import Watch, growth

from whylight.cli.load.pictures import synthetic
from whylight.cli.load.spec import Kind, Load
from whylight.cli.load.together import put_under_load
from whylight.client.requests import Request, build_request
from whylight.outputs import BoxesOutput, MapOutput, PictureOutput
from whylight.testing.server import running_server

MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}
BROKEN = b"\xff\xd8\xff\xe0 no picture at all"
BROKEN_ERROR = "INVALID_ARGUMENT IMAGE_UNREADABLE"
GROWTH = 0.02


def kinds() -> tuple[Kind, ...]:
    """Return calls of all sorts, with pictures of several sizes."""
    chance = random.Random(0)
    pictures = [synthetic(chance.randint(20, 200), chance.randint(20, 200), seed) for seed in range(32)]

    def kind(name: str, weight: float, methods: Any, outputs: list[Any], images: list[bytes] = pictures) -> Kind:
        requests = [build_request(Request(image, methods, outputs=outputs)).SerializeToString() for image in images]
        return Kind(name, weight, tuple(requests))

    drawn = [MapOutput(), PictureOutput(), BoxesOutput()]
    return (
        kind("map", 10, "grad-cam", []),
        kind("everything drawn", 2, "grad-cam", drawn),
        kind("two methods", 4, ["saliency", "grad-cam"], []),
        kind("occlusion", 1, "occlusion", []),
        kind("no picture", 1, "grad-cam", [], [BROKEN]),
    )


def main() -> int:
    """Soak, print, and say whether all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--warm-up", type=int, default=10_000, help="of these, before growth is measured")
    parser.add_argument("--concurrency", type=int, default=24)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two samples")
    parser.add_argument("--json", type=Path, help="file to keep the samples in")
    arguments = parser.parse_args()
    measured = arguments.requests - arguments.warm_up
    phases = {
        "warm-up, calls": (arguments.warm_up // 2, False),
        "warm-up, streams": (arguments.warm_up // 2, True),
        "calls": (measured // 2, False),
        "streams": (measured // 2, True),
    }
    reports: dict[str, Any] = {}
    began = time.monotonic()
    with running_server(models=[MODEL], worker={"devices": ["cpu"], "threads": 1}) as server:
        with Watch(server.pid, arguments.every) as watch:
            for phase, (calls, stream) in phases.items():
                first = len(watch.samples)
                load = Load(
                    reach(server),
                    kinds(),
                    concurrency=arguments.concurrency,
                    calls=calls,
                    stream=stream,
                )
                reports[phase] = put_under_load(load).as_json()
                for sample in watch.samples[first:]:
                    sample["phase"] = phase
        steady = [sample for sample in watch.samples if not sample["phase"].startswith("warm-up")]
    grown = {
        process: {held: growth(steady, process, held) for held in ("rss", "descriptors", "threads")}
        for process in ("front end", "worker")
    }
    facts = {
        "environment": describe("grpcio", "protobuf", "uvloop", "pillow"),
        "requests": arguments.requests,
        "seconds": time.monotonic() - began,
        "growth": grown,
        "reports": {
            phase: {name: report[name] for name in ("calls", "succeeded", "errors", "unanswered", "answered_twice")}
            for phase, report in reports.items()
        },
        "samples": thinned(watch.samples, began),
    }
    rich.print({name: value for name, value in facts.items() if name != "samples"})
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if holds(facts) else 1


def holds(facts: dict[str, Any]) -> bool:
    """Say whether nothing grew and every call had one answer."""
    flat = all(
        one["rss"] < GROWTH and one["descriptors"] <= 0 and one["threads"] <= 0 for one in facts["growth"].values()
    )
    answered = all(
        not report["unanswered"] and not report["answered_twice"] and set(report["errors"]) <= {BROKEN_ERROR}
        for report in facts["reports"].values()
    )
    return flat and answered


def thinned(samples: list[dict[str, Any]], began: float, most: int = 200) -> list[dict[str, Any]]:
    """Return at most so many of the samples, with times from the beginning."""
    step = max(1, -(-len(samples) // most))
    return [{**sample, "time": round(sample["time"] - began, 1)} for sample in samples[::step]]


if __name__ == "__main__":
    sys.exit(main())
