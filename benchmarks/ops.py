"""Times the fused operators against eager torch, bmm and torch.compile: ``python benchmarks/ops.py [--device cuda]``.

Prints what it ran on, then one line per case: the best of many repetitions in milliseconds, and how many times longer
each alternative takes than the operator. Best rather than mean, because other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from whylight import ops

SECONDS_PER_CASE = 0.25


def eager(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM as explanation libraries write it."""
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def eager_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++ as pytorch-grad-cam writes it."""
    squares = gradients**2
    total = activations.sum((2, 3), keepdim=True)
    alpha = squares / (2 * squares + total * gradients**3 + 1e-6)
    alpha = torch.where(gradients != 0, alpha, torch.zeros_like(alpha))
    return ((gradients.relu() * alpha).sum((2, 3), keepdim=True) * activations).sum(1)


def bmm(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM as a matrix product."""
    return torch.bmm(gradients.mean((2, 3))[:, None], activations.flatten(2)).view(-1, *activations.shape[2:])


def overlay(maps: Tensor, images: Tensor, colours: Tensor) -> Tensor:
    """Resize, normalise, colour and blend, a step at a time."""
    maps = F.interpolate(maps[:, None], images.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    maps = maps / maps.amax((1, 2), keepdim=True)
    painted = colours[(255 * maps).long()]
    return (0.5 * painted + 0.5 * images).round().to(torch.uint8)


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the best time of as many runs as fit in the time of a case; on a GPU, of ten in a row."""
    inner = 10 if device.type == "cuda" else 1
    for _ in range(3):
        run()
    best, end = float("inf"), time.perf_counter() + SECONDS_PER_CASE
    while time.perf_counter() < end:
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(inner):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begin) / inner)
    return best * 1e3


def report(case: str, runs: dict[str, Callable[[], object]], device: torch.device) -> None:
    """Time the runs of a case, of which "ours" is the operator, and print them with their ratios to it."""
    times = {name: milliseconds(run, device) for name, run in runs.items()}
    ours = times.pop("ours")
    others = "  ".join(f"{name} {spent:8.3f} ({spent / ours:5.1f}x)" for name, spent in times.items())
    print(f"{case:44} ours {ours:8.3f} ms  {others}", flush=True)


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Run every case on one device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes most of the time")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(
        f"{hardware}; {torch.get_num_threads()} threads; torch {torch.__version__}; Python {platform.python_version()}"
    )
    print(f"native operators: {ops.native_status().description}; command: {' '.join(sys.argv)}")
    torch.manual_seed(0)
    plain = () if arguments.no_compile else (eager, eager_plus_plus, overlay)
    compiled = {function: torch.compile(function) for function in plain}
    with torch.inference_mode():
        for size, channels, side in ((1, 2048, 7), (8, 2048, 7), (64, 2048, 7), (8, 512, 14)):
            for dtype in (torch.float32, torch.bfloat16):
                a = torch.randn(size, channels, side, side, device=device).relu().to(dtype)
                g = torch.randn(size, channels, side, side, device=device).to(dtype) * 0.1
                for scheme, by_hand, alternatives in (
                    ("grad-cam", eager, {"bmm": bmm}),
                    ("grad-cam++", eager_plus_plus, {}),
                ):
                    functions = {"eager": by_hand, **alternatives}
                    if by_hand in compiled and dtype is torch.float32:
                        functions["compile"] = compiled[by_hand]
                    runs = {name: lambda f=f, a=a, g=g: f(a, g) for name, f in functions.items()}
                    runs["ours"] = lambda a=a, g=g, s=scheme: ops.cam_pool(a, g, s, eps=1e-6)
                    report(f"{scheme} {size}x{channels}x{side}x{side} {str(dtype)[6:]}", runs, device)
        colours, scale = ops.colour_table("turbo").to(device), ops.Scale()
        for size in (1, 16, 64):
            maps = torch.randn(size, 7, 7, device=device)
            images = torch.randint(0, 256, (size, 224, 224, 3), dtype=torch.uint8, device=device)
            runs = {"eager": lambda m=maps, i=images: overlay(m, i, colours)}
            if not arguments.no_compile:
                runs["compile"] = lambda m=maps, i=images, f=compiled[overlay]: f(m, i, colours)
            runs["ours"] = lambda m=maps, i=images: ops.cam_overlay(
                m, (224, 224), scale, colours, images=i, opacity=0.5
            )
            report(f"overlay {size}x7x7 -> 224x224", runs, device)


if __name__ == "__main__":
    main()
