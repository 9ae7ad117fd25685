"""The checks of ``whylight doctor``, each of which yields findings; prints nothing.

A finding is "broken" when something that is installed cannot work; what is merely not there is a "note".
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import whylight

_BASE = ("grpcio", "grpcio-status", "grpcio-health-checking", "protobuf", "numpy", "pillow", "click", "rich")
_SERVER = (
    "torch",
    "torchvision",
    "pluggy",
    "pydantic",
    "pydantic-settings",
    "safetensors",
    "uvloop",
    "grpcio-reflection",
)
_GENCODE = (
    "whylight.v1.explanation_pb2",
    "whylight.v1.explanation_pb2_grpc",
    "whylight.v1.catalog_pb2",
    "whylight.v1.catalog_pb2_grpc",
    "whylight.worker.v1.worker_pb2",
)
_VERSION_LINE = re.compile(r"^(?:# Protobuf Python Version: |GRPC_GENERATED_VERSION = ')([\d.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """One fact about the installation. `state` is ok, note or broken."""

    subject: str
    state: str
    detail: str


def examine() -> Iterator[Finding]:
    """Yield what every check finds. A check that fails itself is a finding, and stops no other."""
    has_server = importlib.util.find_spec("torch") is not None
    checks: list[Callable[[], Iterator[Finding]]] = [_versions, _generated_code]
    if has_server:
        checks += [_torch, _native_operators, _devices, _nvcc, _plugins, _demo]
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Finding(check.__name__.strip("_").replace("_", " "), "broken", f"{type(error).__name__}: {error}")
    if not has_server:
        yield Finding("torch", "note", "not installed: client only; pip install 'whylight[server]' to explain here")


def _versions() -> Iterator[Finding]:
    yield Finding("whylight", "ok", f"{whylight.__version__} in {Path(whylight.__file__).parent}")
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for name in _BASE:
        found = _version(name)
        yield Finding(name, "ok" if found else "broken", found or "not installed, and nothing works without it")
    for name in _SERVER:
        found = _version(name)
        yield Finding(name, "ok" if found else "note", found or "not installed; the extra `server` brings it")


def _generated_code() -> Iterator[Finding]:
    """Import the generated code, which refuses runtimes that are older than its generator."""
    versions: set[str] = set()
    for name in _GENCODE:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            yield Finding("generated code", "broken", f"{name}: {error}")
            return
        versions.update(_VERSION_LINE.findall(Path(str(module.__file__)).read_text(encoding="utf-8")))
    yield Finding("generated code", "ok", f"generators {', '.join(sorted(versions))}; loads on this protobuf and gRPC")


def _torch() -> Iterator[Finding]:
    import torch
    import torchvision

    yield Finding("torch with torchvision", "ok", f"{torch.__version__} with {torchvision.__version__}")


def _native_operators() -> Iterator[Finding]:
    from whylight.ops import native_status

    status = native_status()
    good = status.available and "STALE" not in status.description
    yield Finding("native operators", "ok" if good else "note", status.description)


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("cpu", "ok", f"{torch.get_num_threads()} threads on {os.cpu_count()} processors")
    if not torch.cuda.is_available():
        yield Finding("cuda", "note", f"no device (torch is built for CUDA {torch.version.cuda or 'not at all'})")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        yield Finding(
            f"cuda:{index}", "ok", f"{properties.name}, {memory:.0f} GiB, sm_{properties.major}{properties.minor}"
        )


def _nvcc() -> Iterator[Finding]:
    path = shutil.which("nvcc")
    if path is None:
        yield Finding("nvcc", "note", "not on the path; needed only to build the CUDA kernels from source")
        return
    lines = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout.split(
        "\n"
    )
    yield Finding("nvcc", "ok", f"{next((line for line in lines if 'release' in line), lines[0])} ({path})")


def _plugins() -> Iterator[Finding]:
    from whylight.cli.local import load_plugins

    for info in load_plugins().infos.values():
        offers = ", ".join([*info.methods, *(f"{scheme}:" for scheme in info.model_sources)])
        state = {"active": "ok", "blocked": "note"}.get(info.state, "broken")
        yield Finding(f"plugin {info.name}", state, info.error or f"{info.source}: {offers}")


def _demo() -> Iterator[Finding]:
    from whylight.errors import WhylightError

    if importlib.util.find_spec("whylight_demo") is None:
        yield Finding("demo weights", "note", "the plugin whylight_demo is not installed")
        return
    try:
        path = importlib.import_module("whylight_demo").weights_path()
    except WhylightError as error:
        yield Finding("demo weights", "note", error.message)
    else:
        yield Finding("demo weights", "ok", str(path))


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
