"""Where the processor time of a served call goes: every stage from a client's JPEG bytes to its answer, one at a time.

Each stage is run by itself on the same batch, in turns with the others, and timed by the processor time of all threads.
Then a real server is put under load, and what its processes spend on a call is set beside the sum: the rest is
what gRPC, sockets, event loops and threads take. ``--json FILE`` keeps the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a worker, before torch is loaded

import rich
import rich.console
import rich.table
import torch
from environment import describe
from interleaved import interleaved
from own_server import reach
from serving import OUTPUTS, make_requests, run_served

from whylight.cli.load.spec import Kind, Load
from whylight.client.requests import Request, build_request
from whylight.decode import decode_image
from whylight.engine import frames
from whylight.explainer.attribution import stacked
from whylight.limits import Limits
from whylight.render import render
from whylight.rpc.validate import check_request
from whylight.subject import CancelToken
from whylight.testing.server import running_server
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import result_from_proto
from whylight.worker.config import WorkerConfig
from whylight.worker.result import result_frame
from whylight.worker.service import ExplainerService
from whylight.worker.v1 import worker_pb2


class Stages:
    """The stages of one batch, each a call that takes what the one before made."""

    def __init__(self, model: dict[str, Any], method: str, outputs: list[str], batch: int, device: str) -> None:
        config = WorkerConfig(device=device, models=(model,), log_level="WARNING")
        self.service = ExplainerService.open(config)
        photographs = make_requests(method, outputs)
        self.sent = [photographs[number % len(photographs)] for number in range(batch)]
        self.method, self.outputs, self.limits = method, [OUTPUTS[name]() for name in outputs], Limits()
        self.files = [v1.ExplainRequest.FromString(data).inputs[0].image for data in self.sent]
        checked = self.check()
        spec = checked[0].spec
        spec.generation = self.service.ready.models[0].generation
        self.spec, self.inputs = spec, [each.inputs[0] for each in checked]
        self.plan: Any = self.service.plan(spec)
        self.batch_frame = self.frame()
        self.message = worker_pb2.FrontEndFrame.FromString(self.batch_frame)
        self.pictures = [decode_image(file, self.limits) for file in self.files]
        self.items = self.decode()
        self.decoded = [item.input for item in self.items]
        self.cancels = [CancelToken() for _ in self.items]
        self.outcomes = self.explain()
        self.model = self.plan.model
        self.tensor = stacked(self.model, self.decoded)
        self.maps = torch.rand(batch, *self.map_size())
        self.frames = self.results()
        self.answers = self.answer()

    def map_size(self) -> tuple[int, int]:
        """Size of a native map."""
        plain = self.service.explain(self.service.plan(self.map_spec()), self.items, self.cancels, lambda news: None)
        height, width = plain[0].explanations[0].map.shape  # type: ignore[union-attr]
        return height, width

    def map_spec(self) -> Any:
        """What asks for a native map alone."""
        spec = worker_pb2.PlanSpec()
        spec.CopyFrom(self.spec)
        del spec.outputs[:]
        return spec

    # What a client does, and a front end on the way in.

    def build(self) -> Any:
        """Make the messages."""
        return [
            build_request(Request(file, self.method, outputs=self.outputs)).SerializeToString() for file in self.files
        ]

    def check(self) -> Any:
        """Read and check the requests."""
        return [check_request(v1.ExplainRequest.FromString(data), self.limits, "m") for data in self.sent]

    def frame(self) -> bytes:
        """Write the batch to the worker."""
        batch = worker_pb2.Batch(batch_id=1, spec=self.spec)
        for number, one in enumerate(self.inputs):
            batch.items.add(item_id=number, input=one)
        return frames.encode(worker_pb2.FrontEndFrame(batch=batch))[1]

    # What a worker does.

    def parse(self) -> Any:
        """Read the batch."""
        return worker_pb2.FrontEndFrame.FromString(self.batch_frame)

    def decode_files(self) -> Any:
        """Decode the files to pixels."""
        return [decode_image(file, self.limits) for file in self.files]

    def fit(self) -> Any:
        """Bring them to the size of the model's input."""
        return [self.plan.model.transform.fit(picture) for picture in self.pictures]

    def decode(self) -> Any:
        """Both, with what belongs to them."""
        return [self.service.decode(self.plan, item) for item in self.message.batch.items]

    def stack(self) -> Any:
        """Put them together, on the device, and normalise them."""
        return stacked(self.model, self.decoded)

    def forward(self) -> Any:
        """Run the network."""
        with torch.inference_mode():
            return self.model.module(self.tensor)

    def explain(self) -> Any:
        """All that the computing thread does."""
        return self.service.explain(self.plan, self.items, self.cancels, lambda news: None)

    def draw(self) -> Any:
        """Draw and encode the artifacts."""
        method = self.plan.methods[0]
        rows = list(range(len(self.decoded)))
        return render(self.maps, self.decoded, rows, self.plan.outputs, method.colours, method.scale)

    def results(self) -> list[bytes]:
        """Write the results."""
        return [frames.encode(result_frame(number, outcome, 0.1))[1] for number, outcome in enumerate(self.outcomes)]

    # And on the way back.

    def answer(self) -> list[bytes]:
        """Read the results and write the answers."""
        answers = []
        for data in self.frames:
            result = worker_pb2.WorkerFrame.FromString(data).result.result
            answers.append(v1.ExplainResponse(model="m", results=[result]).SerializeToString())
        return answers

    def read(self) -> Any:
        """Read the answers."""
        return [result_from_proto(v1.ExplainResponse.FromString(data).results[0]) for data in self.answers]

    def all(self) -> dict[str, tuple[str, Callable[[], Any], bool]]:
        """Return, by name: where it is done, the stage, and whether another stage has it in its own time."""
        return {
            "make the message": ("client", self.build, False),
            "read and check the request": ("front end", self.check, False),
            "write the batch": ("front end", self.frame, False),
            "read the batch": ("worker", self.parse, False),
            "decode, all of it": ("worker", self.decode, False),
            "· decode the file": ("worker", self.decode_files, True),
            "· transform": ("worker", self.fit, True),
            "explain, all of it": ("worker", self.explain, False),
            "· stack and normalise": ("worker", self.stack, True),
            "· forward": ("worker", self.forward, True),
            "· draw and encode": ("worker", self.draw, True),
            "write the result": ("worker", self.results, False),
            "read the result, write the answer": ("front end", self.answer, False),
            "read the answer": ("client", self.read, False),
        }


def processor_seconds(run: Callable[[], object]) -> float:
    """Call `run` and return how long this process has had processors for it."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--method", default="grad-cam")
    parser.add_argument("--output", action="append", choices=list(OUTPUTS), help="repeatable; a map if left out")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the stages, and for the server")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; all cores if left out")
    parser.add_argument("--json", type=Path, help="file to keep the rows in")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    outputs = arguments.output or ["map"]
    model = {"name": "m", "source": arguments.model}
    if not arguments.model.startswith("python:"):
        model["weights"] = "random:0"
    stages = Stages(model, arguments.method, outputs, arguments.batch, arguments.device).all()
    times = interleaved({name: run for name, (_, run, _) in stages.items()}, arguments.seconds, clock=processor_seconds)
    rows = [
        {"stage": name, "where": where, "part": part, "ms": statistics.median(times[name]) * 1e3 / arguments.batch}
        for name, (where, _, part) in stages.items()
    ]
    facts = describe("torchvision", "grpcio", "protobuf", "uvloop", "pillow")
    served = measure_served(model, arguments, outputs)
    print_table(rows, served, f"{arguments.method} of {arguments.model}, batch {arguments.batch}, {'+'.join(outputs)}")
    rich.print(facts)
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": facts, "stages": rows, "served": served}, indent=2) + "\n")


def measure_served(model: dict[str, Any], arguments: argparse.Namespace, outputs: list[str]) -> dict[str, Any]:
    """Return what a real server and its clients spend on a call, at saturation."""
    worker = {"devices": [arguments.device], "threads": arguments.threads or 0}
    with running_server(timeout=600, models=[model], worker=worker, batching={"max_batch": arguments.batch}) as server:
        load = Load(
            reach(server),
            (Kind(arguments.method, 1.0, tuple(make_requests(arguments.method, outputs))),),
            concurrency=3 * arguments.batch,
            duration=arguments.seconds,
            settle=2.0,
            warm_up=arguments.batch,
        )
        return {mode: run_served(server, Load(**{**vars(load), "stream": mode == "stream"})) for mode in MODES}


MODES = ("unary", "stream")


def print_table(rows: list[dict[str, Any]], served: dict[str, Any], title: str) -> None:
    """Print the stages, and below them what the processes of a server really spend."""
    table = rich.table.Table(title=title)
    table.add_column("where")
    table.add_column("stage")
    table.add_column("processor ms per call", justify="right")
    for row in rows:
        table.add_row(row["where"], row["stage"], f"{row['ms']:.3f}", style="dim" if row["part"] else None)
    for where in ("client", "front end", "worker"):
        staged = sum(row["ms"] for row in rows if row["where"] == where and not row["part"])
        table.add_section()
        table.add_row(where, "sum of the stages", f"{staged:.3f}")
        for mode in MODES:
            spent = served[mode]["cpu_ms_per_call"]["clients" if where == "client" else where]
            table.add_row(where, f"in a server under load, {mode}", f"{spent:.3f}")
    rich.console.Console(width=120).print(table)


if __name__ == "__main__":
    main()
