"""Times the style loss against plain torch, forward and with its gradient: ``python benchmarks/ops_gram.py``.

Prints what it ran on, then one line per case: the best and the median of each contestant in milliseconds, taken in
turns, the most memory that it had allocated at once, and what the forward keeps for the gradient.
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

SHAPES = [(1, 64, 224, 224), (1, 512, 28, 28), (8, 256, 56, 56), (8, 512, 14, 14), (1, 2048, 7, 7)]


def eager(features: Tensor, target: Tensor) -> Tensor:
    """Compute the loss as style transfer programs write it."""
    flat = features.flatten(2)
    return ((torch.bmm(flat, flat.mT) / flat.shape[2] - target) ** 2).sum((1, 2))


def ours(features: Tensor, target: Tensor) -> Tensor:
    """Compute the loss with the operator."""
    return ops.gram_loss(features, target, normalisation="lucid")


CONTESTANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"eager": eager, "ours": ours}


def forward_only(run: Callable[[Tensor, Tensor], Tensor], features: Tensor, target: Tensor) -> Callable[[], object]:
    """Return a run of the forward without a graph."""

    def call() -> object:
        with torch.no_grad():
            return run(features, target)

    return call


def with_gradient(run: Callable[[Tensor, Tensor], Tensor], features: Tensor, target: Tensor) -> Callable[[], object]:
    """Return a run of the forward and the gradient."""
    return lambda: torch.autograd.grad(run(features, target).sum(), features)


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most that a run on the CPU had allocated at once, beyond what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    held = most = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def kept_bytes(run: Callable[[Tensor, Tensor], Tensor], features: Tensor, target: Tensor) -> int:
    """Return what the forward keeps for the gradient besides the features."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() != features.untyped_storage().data_ptr():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run(features, target)
    del result
    return sum(kept.values())


def main() -> None:
    """Run every case on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case")
    arguments = parser.parse_args()
    print(describe())
    print(f"native operators: {ops.native_status().description}")
    torch.manual_seed(0)
    for shape in SHAPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            features = torch.randn(shape).to(memory_format=layout).requires_grad_()
            target = ops.gram(torch.randn(shape), "lucid")[0]
            name = "x".join(map(str, shape)) + ("" if layout is torch.contiguous_format else " channels_last")
            for what, make in (("forward", forward_only), ("forward + gradient", with_gradient)):
                runs = {key: make(run, features, target) for key, run in CONTESTANTS.items()}
                times = interleaved(runs, arguments.seconds)
                columns = "  ".join(
                    f"{key} {1e3 * min(spent):7.3f} ({1e3 * statistics.median(spent):7.3f}) ms, "
                    f"{peak_bytes(runs[key]) / 2**20:6.2f} MiB"
                    for key, spent in times.items()
                )
                print(f"{name:28} {what:18} {columns}  {median_ratio(times, 'eager', 'ours'):4.2f}x", flush=True)
            kept = {key: kept_bytes(run, features, target) / 2**20 for key, run in CONTESTANTS.items()}
            print(f"{name:28} kept for the gradient: eager {kept['eager']:.2f} MiB, ours {kept['ours']:.2f} MiB")


if __name__ == "__main__":
    main()
