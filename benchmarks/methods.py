"""Every attribution method against the peers that have it: time, memory, agreement: ``python benchmarks/methods.py``.

Same weights, same inputs, same samples; ours through the explainer, from tensors to arrays, with predictions and
checks, the peers from tensor to their own maps. All contestants of a case take turns, so that what else the machine
does hits all alike; beside them runs the plain work, a pass of the served module with as many rows as share one,
forward, or there and back to the input. It says which part of our time is the network's, and how fast a library could
be at most. Ratios are medians over turns, by the wall's clock and by processor time: on a machine that others use too
the second is the one to read, and where both are far apart someone else had the machine.

The peak of memory is that of each contestant in a fresh process. The goals are those of issue 4: the fastest peer takes
at least as long as ours, or three times as long; the peak of memory is below that of every peer. ``--json FILE`` is
written after each case, and ``--resume`` goes on where a run of the same command was broken off.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import describe
from grad_cam import resident_peak, waited_for
from interleaved import both_clocks, in_turns, median_ratio, wall_seconds
from method_cases import Case, Peer, cases
from method_peers import CLASS, ROWS_PER_PASS, ROWS_WITH_GRADIENTS, Call, Task
from method_table import HEADER, cells, goal_lines

from whylight.explainer import Explainer
from whylight.models import Model, ModelConfig, open_model
from whylight.plugins import Plugins
from whylight.subject import CancelToken
from whylight.target import ClassIndex

OURS, PLAIN = "whylight", "plain"


@functools.cache
def plugins() -> Plugins:
    """Return all plugins."""
    loaded = Plugins()
    loaded.load()
    return loaded


@functools.cache
def served(name: str, device: str, *, contiguous: bool = False) -> Model:
    """Open a network of torchvision's with random weights, as the server does."""
    config = ModelConfig(
        name=name, source=f"torchvision:{name}", weights="random:0", channels_last=False if contiguous else "auto"
    )
    return open_model(config, plugins().sources, device)


@functools.cache
def reference(name: str, device: str) -> torch.nn.Module:
    """Return the network as a user of torchvision has it, with the weights that whylight serves."""
    import torchvision

    module: torch.nn.Module = getattr(torchvision.models, name)()
    module.load_state_dict(served(name, device, contiguous=True).module.state_dict())
    return module.to(device).eval()


def task_of(case: Case, model: str, batch: int, device: str, size: int) -> Task:
    """Return what the peers are given: a network of their own, and the same noise for everyone."""
    module = copy.deepcopy(reference(model, device))  # some of them leave hooks behind, or other modules
    inputs = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return Task(module, inputs, case.layer, case.samples[batch], case.windows.get(batch, 0))


def ours(case: Case, model: str, task: Task, device: str, peer: Peer) -> Callable[[], np.ndarray[Any, Any]]:
    """Return our call that gives the maps of all inputs, in the conventions of a peer."""
    opened = served(model, device)
    explainer = Explainer({opened.name: opened}, plugins().methods)
    options = {**case.options(task), "profile": peer.profile}
    plan = explainer.plan(opened.name, case.method, options, (peer.output,))
    decoded = [explainer.decode(plan, one) for one in task.inputs.cpu().numpy()]
    targets, tokens = [(ClassIndex(CLASS),)] * len(decoded), [CancelToken() for _ in decoded]
    seeds = [[0]] * len(decoded)

    def run() -> np.ndarray[Any, Any]:
        made = explainer.explain(plan, decoded, targets, seeds, tokens)
        for one in made:
            if isinstance(one, Exception):
                raise one
        return np.stack([one.explanation.artifacts[0].array for one in made])  # type: ignore[union-attr]

    return run


def plain(case: Case, model: str, task: Task, device: str) -> tuple[Call, float]:
    """Return one pass of the served module, and how many of them the method's rows fill."""
    opened = served(model, device)
    total = len(task.inputs) * task.samples
    rows = min(total, ROWS_WITH_GRADIENTS if case.backward else ROWS_PER_PASS)
    inputs = task.inputs[:1].expand(rows, -1, -1, -1).contiguous()
    inputs = inputs.to(memory_format=torch.channels_last) if opened.channels_last else inputs

    def run() -> object:
        if not case.backward:
            with torch.no_grad():
                return opened.module(inputs)
        leaf = inputs.clone().requires_grad_(True)
        return torch.autograd.grad(opened.module(leaf)[:, CLASS].sum(), leaf)

    return run, total / rows


def agreement(peer: Peer, mine: np.ndarray[Any, Any], theirs: Any) -> dict[str, Any]:
    """Return the largest difference as a part of the peer's largest magnitude, and the correlation, of all maps."""
    other = np.asarray(theirs.detach().cpu() if isinstance(theirs, torch.Tensor) else theirs, dtype=np.float64)
    if other.shape != mine.shape:
        raise ValueError(f"{peer.library} gave {other.shape}, ours are {mine.shape}")
    scale = float(np.abs(other).max()) or 1.0
    pairs = zip(mine.reshape(len(mine), -1), other.reshape(len(other), -1), strict=True)
    return {
        "same": peer.same,
        "largest_difference": float(np.abs(mine - other).max()) / scale,
        "correlation": min(float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0 for a, b in pairs),
    }


def measure(
    case: Case, model: str, batch: int, seconds: float, device: str, size: int, *, memory: bool
) -> dict[str, Any]:
    """Return the row of a case at one batch size."""
    task = task_of(case, model, batch, device, size)
    mine = ours(case, model, task, device, case.peers[0])
    calls: dict[str, Call] = {OURS: mine}
    for peer in case.peers:
        calls[peer.library] = peer.make(task_of(case, model, batch, device, size))
    agreed = {}
    for peer in case.peers:
        as_theirs = mine if peer is case.peers[0] else ours(case, model, task, device, peer)
        agreed[peer.library] = agreement(peer, as_theirs(), calls[peer.library]())
    pass_, passes = plain(case, model, task, device)
    timed = calls | {PLAIN: pass_}
    if device != "cpu":
        timed = {name: waited_for(run) for name, run in timed.items()}
    timed[PLAIN]()  # as the others have run before, for their agreement
    taken = in_turns(timed, seconds, both_clocks, least=3, warm_up=0)
    wall = {name: [one.wall for one in each] for name, each in taken.items()}
    busy = {name: [one.processor for one in each] for name, each in taken.items()}
    ratios = {peer.library: median_ratio(wall, peer.library, OURS) for peer in case.peers}
    by_processor = {peer.library: median_ratio(busy, peer.library, OURS) for peer in case.peers}
    fastest = min(by_processor, key=by_processor.__getitem__)
    peaks = {}
    if memory:
        peaks = {name: peak_memory(case.method, name, model, batch, device, size) for name in calls}
    return {
        "method": case.method,
        "batch": batch,
        "samples": task.samples,
        "turns": len(wall[OURS]),
        "milliseconds": {name: statistics.median(each) * 1e3 for name, each in wall.items()},
        "processor_milliseconds": {name: statistics.median(each) * 1e3 for name, each in busy.items()},
        "times_ours": ratios,
        "times_ours_by_processor": by_processor,
        "fastest_peer": fastest,
        "network_share": passes * median_ratio(busy, PLAIN, OURS),
        "fastest_over_network": median_ratio(busy, fastest, PLAIN) / passes,
        "goal": case.goal,
        "reached": by_processor[fastest] >= case.goal,
        "peak_mib": peaks,
        "agreement": agreed,
    }


def peak_memory(method: str, contestant: str, model: str, batch: int, device: str, size: int) -> float:
    """Return by how many MiB a fresh process grows at most, over what it has when libraries and weights are loaded."""
    command = [sys.executable, __file__, "--memory-of", contestant, "--only", f"^{re.escape(method)}$"]
    command += ["--batch", str(batch), "--model", model, "--device", device, "--size", str(size)]
    command += ["--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak_memory(case: Case, contestant: str, model: str, batch: int, device: str, size: int) -> None:
    """Run one contestant, again if that is soon done, and print by how much the process's peak grew, or the GPU's."""
    task = task_of(case, model, batch, device, size)
    made: Mapping[str, Callable[[], Call]] = {
        OURS: lambda: ours(case, model, task, device, case.peers[0]),
        **{peer.library: functools.partial(peer.make, task) for peer in case.peers},
    }
    run = made[contestant]()
    if device != "cpu":
        before = torch.cuda.memory_allocated() / 2**10
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now, the parent's included
        before = resident_peak()
    if wall_seconds(run) < 1:
        run()
    after = resident_peak() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**10
    print((after - before) / 2**10)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only methods whose name has this regular expression in it")
    parser.add_argument("--model", default="resnet18", choices=("resnet18", "resnet34", "resnet50"))
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=[1, 8, 32],
        help="sizes that a method is not measured at, because a call takes too long, are left out",
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="for each method and batch, at least three turns")
    parser.add_argument(
        "--size",
        type=int,
        default=224,
        help="height and width of the inputs; smaller ones for trying, where the share of occlusion is not to be read",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch; all cores if left out")
    parser.add_argument("--no-memory", action="store_true", help="start no processes that measure memory")
    parser.add_argument("--json", type=Path, help="file to keep the rows in, written after each case")
    parser.add_argument("--resume", action="store_true", help="take over the rows that the file has, and do the rest")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, device, size = arguments.model, arguments.device, arguments.size
    chosen = [case for case in cases(model) if re.search(arguments.only, case.method)]
    if arguments.memory_of:
        print_peak_memory(chosen[0], arguments.memory_of, model, arguments.batch[0], device, size)
        return
    facts = describe("torchvision", "grad-cam", "captum", "torchcam", "zennit")
    facts |= {"model": model, "size": size, "load_average": [os.getloadavg()[0]]}
    facts["command"] = facts["command"].replace(" --resume", "")
    rows: list[dict[str, Any]] = []
    if arguments.resume:
        if arguments.json is None:
            parser.error("--resume needs --json")
        facts, rows = begun(arguments.json, facts)
    for name, value in facts.items():
        print(f"{name}: {value}")
    print("\n" + "\n".join(HEADER))
    done = {(row["method"], row["batch"]) for row in rows}
    for case in chosen:
        for batch in sorted(set(arguments.batch) & set(case.samples)):
            if (case.method, batch) in done:
                continue
            memory = not arguments.no_memory
            rows.append(measure(case, model, batch, arguments.seconds, device, size, memory=memory))
            print(f"| {' | '.join(cells(rows[-1]))} |", flush=True)
            facts["load_average"].append(os.getloadavg()[0])
            keep(arguments.json, facts, rows)
    print("\n" + "\n".join(goal_lines(rows)))


def begun(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the facts and the rows of a run that was broken off; these facts and no rows if there is none.

    Raises:
        SystemExit: it was another command, or other versions: its rows are of something else.
    """
    if not path.exists():
        return facts, []
    kept = json.loads(path.read_text())
    for name in ("command", "threads", "device", "versions", "model", "size"):
        if kept["environment"][name] != facts[name]:
            raise SystemExit(f"{path} is of another run: {name} {kept['environment'][name]}, now {facts[name]}")
    return kept["environment"], kept["rows"]


def keep(path: Path | None, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write what is measured so far, if there is where to; whoever reads meanwhile finds the whole of it."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps({"environment": facts, "rows": rows, "goals": goal_lines(rows)}, indent=1) + "\n")
    beside.replace(path)


if __name__ == "__main__":
    main()
