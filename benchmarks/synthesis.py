"""Activation maximisation: eight pictures against one, and whylight against lucent at equal steps, all in one run.

MobileNetV2 with random weights, the default way of both: a spectrum of decorrelated colours seen through random
movements, Adam. Without lucent, whylight alone is measured. For lucent:

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
from interleaved import interleaved, median_ratio
from torch import nn

from whylight.models import Transform, wrap_module
from whylight.plugins import Plugins
from whylight.testing import run_synthesis

CLASSES = tuple(range(0, 800, 100))


def network() -> nn.Module:
    """Return the network, the same weights each time."""
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v2().eval()


def whylight_run(count: int, side: int, steps: int, device: str) -> Callable[[], object]:
    """Return a call that makes `count` pictures, of a class each, as one batch."""
    plugins = Plugins()
    plugins.load()
    method = plugins.methods["activation-maximization"].method
    model = wrap_module(network().to(device), transform=Transform((side, side), None), channels_last="auto")
    return lambda: run_synthesis(method, model, CLASSES[:count], {"steps": steps})


def lucent_run(count: int, side: int, steps: int, device: str) -> Callable[[], object]:
    """Return a call that makes as many with lucent, in one batch.

    Its pictures have the movements of its defaults but for the padding, by which it would look at larger pictures.
    """
    from lucent.optvis import objectives, param, render, transform

    net = network().to(device)
    aims = [objectives.channel("classifier", number, batch=place) for place, number in enumerate(CLASSES[:count])]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60, help="how long the contestants take turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="keep the rows in this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    shape = arguments.side, arguments.steps, arguments.device
    runs = {f"whylight, {count}": whylight_run(count, *shape) for count in (1, len(CLASSES))}
    try:
        runs |= {f"lucent, {count}": lucent_run(count, *shape) for count in (1, len(CLASSES))}
    except ImportError as error:
        rich.print(f"lucent is not measured: {error}")

    def timed(run: Callable[[], object]) -> Callable[[], object]:
        def call() -> object:
            result = run()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            return result

        return call

    times = interleaved({name: timed(run) for name, run in runs.items()}, arguments.seconds, least=3)
    table = rich.table.Table("pictures", "seconds a step, median", "against whylight's one", title="Class maximisation")
    rows: list[dict[str, Any]] = []
    for name, seconds in times.items():
        ratio = median_ratio(times, name, "whylight, 1")
        rows.append({"name": name, "step": statistics.median(seconds) / arguments.steps, "ratio": ratio})
        table.add_row(name, f"{rows[-1]['step'] * 1000:.1f} ms", f"{ratio:.2f}")
    rich.print(table)
    if arguments.json is not None:
        found = {"environment": describe(), "side": arguments.side, "steps": arguments.steps, "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
