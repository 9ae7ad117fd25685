"""What the cost model says a server can do, beside what it does: the worked example of docs/how-to/plan-capacity.md.

The pace of a server, in model evaluations per second, is taken from one method under a closed loop. From it follows how
many calls per second of any other method, or of a mix, there should be; the same loop then shows how many there are.
``--json FILE`` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import psutil
import rich.console
import rich.table
from environment import describe
from own_server import favour, reach

from whylight.cli.load.pictures import synthetic
from whylight.cli.load.spec import Kind, Load
from whylight.cli.load.together import put_under_load
from whylight.client.requests import Request, build_request
from whylight.explainer import Explainer
from whylight.models import ModelConfig, open_model
from whylight.plugins import Plugins
from whylight.testing.server import running_server

METHODS: dict[str, dict[str, Any]] = {
    "grad-cam": {},
    "saliency": {},
    "integrated-gradients": {"steps": 10},
    "occlusion": {"window": 64, "stride": 40},
}
"""The methods of the example, the one that gives the pace first."""

MIX = {"grad-cam": 0.9, "integrated-gradients": 0.1}
UTILISATION = 0.7


def costs_of(model: dict[str, Any]) -> dict[str, float]:
    """Return what a call of each method costs, in model evaluations, as the scheduler counts them."""
    plugins = Plugins()
    plugins.load()
    opened = open_model(ModelConfig(**model), plugins.sources, "cpu")
    explainer = Explainer({opened.name: opened}, plugins.methods)
    return {name: explainer.plan(opened.name, name, options).cost for name, options in METHODS.items()}


def kind(name: str, share: float) -> Kind:
    """Return calls of one method with a picture of 500 x 375."""
    request = build_request(Request(synthetic(500, 375, 0), name, options=METHODS[name]))
    return Kind(name, share, (request.SerializeToString(),))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="torchvision:resnet18")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--nice", type=int, default=0, help="of the worker's session; see serving.py")
    parser.add_argument("--threads", type=int, default=0, help="of the worker; all cores if left out")
    parser.add_argument("--wanted", type=float, default=200.0, help="calls per second to plan for, of the mix")
    parser.add_argument("--json", type=Path, help="file to keep the figures in")
    arguments = parser.parse_args()
    model = {"name": "m", "source": arguments.model, "weights": "random:0"}
    costs = costs_of(model)
    loads = {name: ({name: 1.0}, cost) for name, cost in costs.items()}
    loads["the mix"] = (MIX, sum(share * costs[name] for name, share in MIX.items()))
    rows: list[dict[str, Any]] = []
    with running_server(
        timeout=600, models=[model], worker={"devices": ["cpu"], "threads": arguments.threads}
    ) as server:
        (worker,) = psutil.Process(server.pid).children()
        favour(worker.pid, arguments.nice)
        for name, (shares, cost) in loads.items():
            load = Load(
                reach(server),
                tuple(kind(method, share) for method, share in shares.items()),
                concurrency=arguments.concurrency,
                duration=arguments.seconds,
                settle=5.0,
                warm_up=8,
                deadline=120.0,
            )
            facts = put_under_load(load).as_json()
            if not facts["throughput"]:
                raise RuntimeError(f"no call of {name} was answered in {arguments.seconds} seconds: {facts['errors']}")
            pace = rows[0]["measured"] * rows[0]["cost"] if rows else facts["throughput"] * cost
            rows.append(
                {
                    "load": name,
                    "cost": cost,
                    "predicted": pace / cost,
                    "measured": facts["throughput"],
                    "errors": facts["errors"],
                    "batch_size": facts["mean_batch_size"],
                }
            )
    servers = math.ceil(arguments.wanted / (rows[-1]["measured"] * UTILISATION))
    print_table(
        rows, f"{arguments.model}; {arguments.wanted:g} calls/s of the mix at {UTILISATION:.0%}: {servers} servers"
    )
    if arguments.json:
        facts = {"environment": describe("torchvision", "grpcio"), "mix": MIX, "methods": METHODS, "rows": rows}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print the rows for people."""
    table = rich.table.Table(title=title)
    for column in ("load", "evaluations a call", "calls/s predicted", "measured", "of predicted", "batch size"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for row in rows:
        share = row["measured"] / row["predicted"]
        figures = (f"{row['cost']:.1f}", f"{row['predicted']:.2f}", f"{row['measured']:.2f}", f"{share:.2f}")
        table.add_row(row["load"], *figures, f"{row['batch_size']:.1f}")
    rich.console.Console(width=120).print(table)


if __name__ == "__main__":
    main()
