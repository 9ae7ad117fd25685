"""How a server bears load: latency at a share of what it can, and ten times as much as it can for a minute.

First a closed loop finds what the server can. Then calls come in an open loop, at 70 % of that: their p99 stands beside
the time of a full batch. Then ten times as many come: how long those that are answered took, how soon the others were
refused and whether they were told when to come again, what the processes held meanwhile, whether each call had exactly
one answer, and whether the server does as well as before afterwards. The model is tiny and the method costs many
evaluations, so that the server is at its limit long before the clients are. ``--json FILE`` keeps the figures,
``--plots FOLDER`` the pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import rich
from environment import describe
from own_server import favour, reach
from watching import Watch, growth

from whylight.cli.load.pictures import synthetic
from whylight.cli.load.plot import draw
from whylight.cli.load.report import Report
from whylight.cli.load.spec import Kind, Load
from whylight.cli.load.together import put_under_load
from whylight.client.requests import Request, build_request
from whylight.testing.server import RunningServer, running_server

MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net"}
FULL = "RESOURCE_EXHAUSTED QUEUE_FULL"


class Bench:
    """One server and the loads that it is put under."""

    def __init__(self, server: RunningServer, arguments: argparse.Namespace) -> None:
        self._server = server
        self._arguments = arguments
        picture = synthetic(224, 224, 0)
        options = json.loads(arguments.options)
        request = build_request(Request(picture, arguments.method, options=options)).SerializeToString()
        self._kinds = (Kind(arguments.method, 1.0, (request,)),)

    def load(self, name: str, **how: Any) -> Report:
        """Put the server under a load, and draw what came of it where that is asked for."""
        load = Load(
            reach(self._server),
            self._kinds,
            processes=self._arguments.processes,
            settle=2.0,
            **how,
        )
        report = put_under_load(load)
        if self._arguments.plots:
            draw(report, self._arguments.plots / f"{name}.png", name.replace("-", " "))
        return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="occlusion")
    parser.add_argument("--options", default='{"window": 56, "stride": 28}', help="of the method, as JSON")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--queue", type=int, default=32, help="inputs that may wait")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload; a third of it for the others")
    parser.add_argument("--times", type=float, default=10.0, help="how much more than it can")
    parser.add_argument("--share", type=float, default=0.7, help="of what it can, for latency")
    parser.add_argument("--processes", type=int, default=2, help="of clients")
    parser.add_argument(
        "--nice", type=int, default=0, help="of the front end's and the clients' session, not of the worker's"
    )
    parser.add_argument("--json", type=Path, help="file to keep the figures in")
    parser.add_argument("--plots", type=Path, help="folder to keep the plots in")
    arguments = parser.parse_args()
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
    bounds = {
        "batching": {"max_batch": arguments.batch, "max_batch_cost": 1000.0},  # so that batches are as large as that
        "queue": {"items": arguments.queue},
        "limits": {"inputs": arguments.queue},
    }
    with running_server(models=[MODEL], worker={"devices": ["cpu"], "threads": 1}, **bounds) as server:
        facts = measure(server, Bench(server, arguments), arguments)
    facts = {"environment": describe("grpcio", "protobuf", "uvloop"), **facts}
    rich.print(facts)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


def measure(server: RunningServer, bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was found out."""
    third = arguments.seconds / 3
    with Watch(server.pid, 0.5) as watch:
        favour(server.pid, arguments.nice)
        callers = 3 * arguments.batch
        before = bench.load("saturation", concurrency=callers, duration=third, warm_up=callers).as_json()
        can = before["throughput"]
        batch_time = before["compute_time"]["p50"]
        some = bench.load("share-of-saturation", rate=arguments.share * can, duration=third).as_json()
        # A front end that is new grows until it has had its first crowd: what counts is whether it does with the next.
        bench.load("overload-before", rate=arguments.times * can, duration=third, deadline=30.0)
        began = time.monotonic()
        over = bench.load("overload", rate=arguments.times * can, duration=arguments.seconds, deadline=30.0).as_json()
        ended = time.monotonic()
        after = bench.load("afterwards", concurrency=callers, duration=third).as_json()
    during = [sample for sample in watch.samples if began < sample["time"] < ended]
    refused = over["failures"].get(FULL, {"count": 0, "with_retry_after": 0, "latency_from_sending": {}})
    return {
        "what_it_can": {"calls_per_second": can, "batch_time_p50": batch_time, "batch_size": before["mean_batch_size"]},
        "at_a_share": {
            "share": arguments.share,
            "latency": some["latency"],
            "p99_over_batch_time": some["latency"]["p99"] / batch_time,
            "sent_late": some["lag"],
            "batch_size": some["mean_batch_size"],
        },
        "overload": {
            "times": arguments.times,
            "rate": over["rate"],
            "sent": over["sent"],
            "counted": over["calls"],
            "answered": over["succeeded"],
            "answers_per_second_of_what_it_can": over["throughput"] / can,
            "unanswered": over["unanswered"],
            "answered_twice": over["answered_twice"],
            "failures": over["failures"],
            "latency_of_answers": over["latency"],
            "queue_and_two_batches_take": (arguments.queue + 2 * arguments.batch) / can,
            "refusals_with_retry_after": refused["with_retry_after"],
            "latency_of_refusals": refused["latency_from_sending"],
            "sent_late": over["lag"],
            "rss_mib": {
                process: [round(sample[process]["rss"] / 2**20, 1) for sample in during[::10]]
                for process in ("front end", "worker")
            },
            "growth": {
                process: {held: growth(during, process, held) for held in ("rss", "descriptors", "threads")}
                for process in ("front end", "worker")
            },
        },
        "afterwards": {
            "of_before": after["throughput"] / can,
            "errors": after["errors"],
        },
    }


if __name__ == "__main__":
    main()
