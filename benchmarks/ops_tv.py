"""Times total variation, forward and with its gradient, against eager torch and torch.compile, in turns, in one run.

``python benchmarks/ops_tv.py [--device cuda]`` prints what it ran on, then one line per case: the median of each in
milliseconds and the median over turns of how many times longer it took than ours; last, the goals that were missed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from environment import describe
from interleaved import interleaved, median_ratio
from torch import Tensor

from whylight import ops

GOALS = {2.0: 4.0, 2.5: 2.0}  # how many times as fast as eager the forward is to be on a CPU, by beta
NEVER_SLOWER = 1 / 1.05


def eager(image: Tensor, beta: float) -> Tensor:
    """Total variation as it is written, without the differences of the last row and column."""
    across, down = image[:, :, :-1, 1:] - image[:, :, :-1, :-1], image[:, :, 1:, :-1] - image[:, :, :-1, :-1]
    squares = across.square() + down.square()
    return (squares if beta == 2 else squares ** (beta / 2)).sum((1, 2, 3))


def with_gradient(loss: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], tuple[Tensor, Tensor]]:
    """Return `loss` with autograd's gradient."""

    def run(image: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        values = loss(image, beta)
        return values, torch.autograd.grad(values.sum(), image)[0]

    return run


def waited_for(run: Callable[..., object], image: Tensor, beta: float) -> Callable[[], object]:
    """Return a call that ends when the device has done it."""

    def call() -> object:
        result = run(image, beta)
        if image.is_cuda:
            torch.cuda.synchronize()
        return result

    return call


def main() -> None:
    """Run every case on one device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64], help="images of 3 x 224 x 224")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case")
    parser.add_argument("--threads", type=int, help="of torch; all cores if left out")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(describe())
    print(f"native operators: {ops.native_status().description}")
    torch.manual_seed(0)
    missed = []
    for size in arguments.sizes:
        for beta, goal in GOALS.items():
            for backward in (False, True):
                image = torch.rand(size, 3, 224, 224, device=arguments.device, requires_grad=backward)
                torch.compiler.reset()
                compiled = torch.compile(eager, dynamic=False)
                runs: dict[str, Callable[..., object]] = {"ours": ops.tv_loss, "eager": eager, "compile": compiled}
                if backward:
                    runs = {name: with_gradient(run) for name, run in runs.items()}  # type: ignore[arg-type]
                    runs["ours, one pass"] = ops.tv_loss_with_gradient
                times = interleaved(
                    {name: waited_for(run, image, beta) for name, run in runs.items()}, arguments.seconds
                )
                ratios = {name: median_ratio(times, name, "ours") for name in times}
                case = f"{size}x3x224x224 beta {beta} forward{' + backward' if backward else ''}"
                columns = (f"{n} {statistics.median(times[n]) * 1e3:8.3f} ms ({r:5.2f}x)" for n, r in ratios.items())
                print(f"{case:44}", "  ".join(columns), flush=True)
                goals = {"eager": NEVER_SLOWER if backward else goal, "compile": NEVER_SLOWER}
                missed += [f"{case}: {ratios[n]:.2f}x of {n}, not {g:.2f}x" for n, g in goals.items() if ratios[n] < g]
    print("\n".join(["goals missed:", *missed]) if missed else "all goals reached")


if __name__ == "__main__":
    main()
