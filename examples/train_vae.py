"""Trains a variational autoencoder that whylight serves: on scikit-learn's digits, or on a folder of your pictures.

    python examples/train_vae.py --to digits                                       # vae:32, a minute on a laptop
    python examples/train_vae.py --to faces --architecture 128 --pictures photos/  # vae:128

Writes vae.safetensors and decoder.safetensors. Stop it when you like: the same command goes on from the last
checkpoint, with the same bits as if it had never stopped.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

import whylight
from whylight_generative.variational_autoencoder import (
    VAE_32,
    VAE_128,
    Architecture,
    VariationalAutoencoder,
    divergence,
)

ARCHITECTURES = {"32": VAE_32, "128": VAE_128}
Take = Callable[[list[int]], Tensor]

console = Console()


def digits() -> tuple[int, Take]:
    """Return how many digits scikit-learn has, and how to take some of them, `[N, 1, 32, 32]` in 0..1."""
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images).float()[:, None] / 16
    large = F.interpolate(small, size=(32, 32), mode="bilinear").clamp(0, 1)
    return len(large), lambda rows: large[rows]


def pictures(path: Path, architecture: Architecture) -> tuple[int, Take]:
    """Return how many pictures a folder or zip archive has, and how to take some, read as they are needed."""
    found = whylight.DataSet("pictures", path)
    transform = whylight.Transform.plain((architecture.size, architecture.size), architecture.channels)

    def take(rows: list[int]) -> Tensor:
        read = [found.fitted(row, transform) for row in rows]
        stacked = np.stack([one for one in read if one is not None])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255

    return len(found), take


def train(
    architecture: Architecture,
    count: int,
    take: Take,
    folder: Path,
    *,
    steps: int,
    batch: int = 64,
    rate: float = 1e-3,
    weight: float = 1.0,
    seed: int = 0,
    every: int = 200,
    device: str = "cpu",
    tell: Callable[[int, float, float], None] = lambda step, reconstruction, divergence: None,
) -> VariationalAutoencoder:
    """Train up to step `steps`, from the last checkpoint in `folder` if there is one; `tell` gets both losses.

    The loss of a picture is the cross-entropy of its pixels plus `weight` times KL(q(z|x) || N(0, 1)), in nats (Kingma
    and Welling, ICLR 2014). Which pictures and which noise a step gets follows from `seed` and the step alone.
    """
    torch.manual_seed(seed)
    network = VariationalAutoencoder(architecture).to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    step = _resumed(folder, network, optimiser)
    while step < steps:
        inputs = take(_rows(count, batch, step, seed)).to(device)
        torch.manual_seed(hash((seed, step)) % 2**63)
        made = network(inputs)
        reconstruction = F.binary_cross_entropy(made["reconstruction"], inputs, reduction="sum") / len(inputs)
        apart = divergence(made["mean"], made["log_variance"]).sum() / len(inputs)
        optimiser.zero_grad()
        (reconstruction + weight * apart).backward()
        optimiser.step()
        step += 1
        tell(step, reconstruction.item(), apart.item())
        if step % every == 0 or step == steps:
            _keep(folder, step, network, optimiser)
    return network.eval()


def export(network: VariationalAutoencoder, folder: Path) -> None:
    """Write the files that vae:32 and vae:32-decoder load, or vae:128 and vae:128-decoder."""
    for name, part in (("vae", network), ("decoder", network.decoder)):
        save_file(
            {key: value.cpu().contiguous() for key, value in part.state_dict().items()}, folder / f"{name}.safetensors"
        )


def _rows(count: int, batch: int, step: int, seed: int) -> list[int]:
    """Return the pictures of a step: epoch after epoch, each in an order of its own."""
    rows: list[int] = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, position = divmod(place, count)
        if not rows or position == 0:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)).tolist()
        rows.append(order[position])
    return rows


def _keep(folder: Path, step: int, network: VariationalAutoencoder, optimiser: torch.optim.Optimizer) -> None:
    """Write a checkpoint; a folder gets its name when it is whole, and then the ones before it go."""
    part = folder / "checkpoint.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(network.state_dict(), part / "network.safetensors")
    torch.save(optimiser.state_dict(), part / "optimiser.pt")
    before = _checkpoints(folder)
    os.replace(part, folder / f"checkpoint-{step:09d}")
    for one in before:
        shutil.rmtree(one)


def _resumed(folder: Path, network: VariationalAutoencoder, optimiser: torch.optim.Optimizer) -> int:
    found = _checkpoints(folder)
    if not found:
        return 0
    network.load_state_dict(load_file(found[-1] / "network.safetensors"))
    optimiser.load_state_dict(torch.load(found[-1] / "optimiser.pt", weights_only=True))
    return int(found[-1].name.rpartition("-")[2])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-?????????"))


def main(arguments: list[str] | None = None) -> None:
    """Read the arguments, train, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", type=Path, required=True, help="folder for checkpoints and the finished weights")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="32")
    parser.add_argument("--pictures", type=Path, help="folder or zip archive; none means scikit-learn's digits")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3, help="step size of Adam")
    parser.add_argument("--weight", type=float, default=1.0, help="of the divergence in the loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    architecture = ARCHITECTURES[given.architecture]
    if given.pictures is None and architecture is not VAE_32:
        parser.error("the digits are for --architecture 32; name --pictures")
    count, take = digits() if given.pictures is None else pictures(given.pictures, architecture)
    columns = (
        "[progress.description]{task.description}",
        "pixels {task.fields[pixels]:8.2f}",
        "KL {task.fields[kl]:6.2f}",
    )
    with Progress(
        TextColumn(columns[0]),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *(TextColumn(column) for column in columns[1:]),
        console=console,
    ) as progress:
        bar = progress.add_task(f"vae:{given.architecture} on {count} pictures", total=given.steps, pixels=0.0, kl=0.0)
        network = train(
            architecture,
            count,
            take,
            given.to,
            steps=given.steps,
            batch=given.batch,
            rate=given.rate,
            weight=given.weight,
            seed=given.seed,
            every=given.every,
            device=given.device,
            tell=lambda step, pixels, kl: progress.update(bar, completed=step, pixels=pixels, kl=kl),
        )
    export(network, given.to)
    console.print(f"{given.to / 'vae.safetensors'} and {given.to / 'decoder.safetensors'} are written")


if __name__ == "__main__":
    main()
