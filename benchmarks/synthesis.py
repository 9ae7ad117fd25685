"""Activation maximisation: eight pictures against one, and whylight against lucent at equal steps, all in one run.

A torchvision network with random weights, the default way of both: a spectrum of decorrelated colours seen through
random movements, Adam. "passes" is what no synthesis can leave out: the network's own forward and backward pass of as
many pictures, by torch alone. Without lucent, the rest is measured. For lucent:

    pip install decorator tqdm ipython
    pip install --no-deps torch-lucent==0.1.8 kornia==0.4.1
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich
import rich.table
import torch
import torchvision
from environment import describe
from interleaved import Taken, both_clocks, in_turns
from torch import nn

from whylight.models import Transform, wrap_module
from whylight.plugins import Plugins
from whylight.testing import run_synthesis

CLASSES = tuple(range(0, 800, 100))


def network(name: str) -> nn.Module:
    """Return a network, the same weights each time."""
    torch.manual_seed(0)
    made: nn.Module = torchvision.models.get_model(name).eval()
    return made.requires_grad_(False)


def whylight_run(name: str, count: int, side: int, steps: int, device: str) -> Callable[[], object]:
    """Return a call that makes `count` pictures, of a class each, as one batch."""
    plugins = Plugins()
    plugins.load()
    method = plugins.methods["activation-maximization"].method
    model = wrap_module(network(name).to(device), transform=Transform((side, side), None), channels_last="auto")
    return lambda: run_synthesis(method, model, CLASSES[:count], {"steps": steps})


def passes_run(name: str, count: int, side: int, steps: int, device: str) -> Callable[[], object]:
    """Return a call that runs the network there and back as often, and does nothing else."""
    net = network(name).to(device)
    inputs = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    inputs = inputs.to(memory_format=torch.channels_last)

    def run() -> None:
        for _ in range(steps):
            leaf = inputs.detach().requires_grad_(True)
            torch.autograd.grad(net(leaf)[:, CLASSES[0]].sum(), leaf)

    return run


def lucent_run(name: str, count: int, side: int, steps: int, device: str) -> Callable[[], object]:
    """Return a call that makes as many with lucent, in one batch.

    Its pictures have the movements of its defaults but for the padding, by which it would look at larger pictures.
    """
    from lucent.optvis import objectives, param, render, transform

    net = network(name).to(device)
    last = [layer for layer, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
    output = last.replace(".", "_") if "." not in last else last.partition(".")[0]
    aims = [objectives.channel(output, number, batch=place) for place, number in enumerate(CLASSES[:count])]
    objective = sum(aims[1:], aims[0])
    moves = [transform.jitter(8), transform.random_scale([0.9, 1.0, 1.1]), transform.random_rotate(range(-10, 11))]

    def run() -> object:
        for layer in net.modules():  # lucent leaves its hooks behind, which the next call would pay for
            layer._forward_hooks.clear()
        return render.render_vis(
            net,
            objective,
            lambda: param.image(side, batch=count),
            transforms=moves,
            thresholds=(steps,),
            progress=False,
            show_image=False,
            fixed_image_size=side,
        )

    return run


def measure(name: str, side: int, threads: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each contestant: seconds of a step by both clocks, and how many times its own single one."""
    torch.set_num_threads(threads)
    shape = side, arguments.steps, arguments.device
    counts = (1, len(CLASSES))
    runs = {("whylight", count): whylight_run(name, count, *shape) for count in counts}
    runs |= {("passes", count): passes_run(name, count, *shape) for count in counts}
    try:
        runs |= {("lucent", count): lucent_run(name, count, *shape) for count in counts}
    except ImportError as error:
        rich.print(f"lucent is not measured: {error}")

    def timed(run: Callable[[], object]) -> Callable[[], object]:
        def call() -> object:
            result = run()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            return result

        return call

    times = in_turns({key: timed(run) for key, run in runs.items()}, arguments.seconds, both_clocks, least=3)

    def ratio(key: tuple[str, int], base: tuple[str, int], clock: Callable[[Taken], float]) -> float:
        return statistics.median(clock(a) / clock(b) for a, b in zip(times[key], times[base], strict=True))

    where = {"network": name, "side": side, "threads": threads}
    rows = []
    for (who, count), taken in times.items():
        row: dict[str, Any] = {**where, "who": who, "pictures": count, "turns": len(taken)}
        for clock_name, clock in (("wall", _wall), ("processor", _processor)):
            row[clock_name] = {
                "step": statistics.median(map(clock, taken)) / arguments.steps,
                "of_one": ratio((who, count), (who, 1), clock),
                "of_whylight": ratio((who, count), ("whylight", count), clock),
            }
        rows.append(row)
    return rows


def _wall(taken: Taken) -> float:
    return taken.wall


def _processor(taken: Taken) -> float:
    return taken.processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["mobilenet_v2"], help="names of torchvision's models")
    parser.add_argument("--side", type=int, nargs="+", default=[224], help="pixels of a side")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60, help="how long the contestants of each case take turns")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="keep the rows in this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    headings = (
        "network",
        "side",
        "threads",
        "pictures",
        "ms a step",
        "of one, wall",
        "of one, processor",
        "of whylight",
    )
    table = rich.table.Table(*headings, title="Class maximisation")
    for name in arguments.network:
        for side in arguments.side:
            for threads in arguments.threads:
                found = measure(name, side, threads, arguments)
                rows += found
                for row in found:
                    wall, processor = row["wall"], row["processor"]
                    numbers = (wall["of_one"], processor["of_one"], wall["of_whylight"])
                    who = f"{row['who']}, {row['pictures']}"
                    texts = [f"{number:.2f}" for number in numbers]
                    table.add_row(name, str(side), str(threads), who, f"{wall['step'] * 1000:.1f}", *texts)
    rich.print(table)
    if arguments.json is not None:
        found_by = {"environment": describe(), "steps": arguments.steps, "rows": rows}
        arguments.json.write_text(json.dumps(found_by, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
