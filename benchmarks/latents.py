"""What latent-grad-cam costs for all 200 latents of vae:128 beside 10, in turns: ``python benchmarks/latents.py``.

Behind one linear layer all gradients are known, so that more latents are more weighted sums and no more passes.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from environment import describe

import whylight
from whylight.models import ModelConfig, open_model
from whylight.testing import run_method
from whylight_generative import GenerativeSource, LatentGradCAM

MANY, FEW = 200, 10


def main() -> None:
    """Measure and print JSON: seconds by how many latents, and how many times as long all of them take."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--layer", default="last-spatial")
    given = parser.parse_args()
    model = open_model(ModelConfig(name="vae", source="vae:128", weights="random:0"), {"vae": GenerativeSource})
    inputs = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    targets = {count: [[whylight.Latent(index) for index in range(count)]] for count in (FEW, MANY)}
    seconds: dict[int, list[float]] = {count: [] for count in targets}
    for number in range(given.rounds + 2):
        for count in (FEW, MANY) if number % 2 else (MANY, FEW):
            started = time.perf_counter()
            run_method(LatentGradCAM, model, inputs, targets[count], {"layer": given.layer})
            if number >= 2:
                seconds[count].append(time.perf_counter() - started)
    medians = {count: float(np.median(times)) for count, times in seconds.items()}
    report = {**describe(), "layer": given.layer, "seconds": medians, "ratio": medians[MANY] / medians[FEW]}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
