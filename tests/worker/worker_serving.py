"""Real workers with a small real model, and a plugin whose methods misbehave on demand."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whylight.engine import Bounds, Engine, LocalPool, Work
from whylight.engine.local_pool import Backoff
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import dict_to_struct
from whylight.worker.config import WorkerConfig
from whylight.worker.v1 import worker_pb2

RESNET = {"name": "resnet", "source": "torchvision:resnet18", "weights": "random:0", "input_size": [64, 64]}

MISBEHAVING = '''
import os, signal, sys, time
import torch
import whylight


class Misbehaving(whylight.Attribution):
    """Does what its option says."""

    name = "misbehaving"

    class Options(whylight.Options):
        how: str = "well"

    def attribute(self, subject, batch, options):
        if options.how == "raise":
            raise RuntimeError("/a/path/of/ours")
        if options.how == "exit":
            sys.exit(3)
        if options.how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if options.how == "until-cancelled":
            while True:
                batch.cancel.check()
                time.sleep(0.001)
        return torch.ones(len(batch.targets), 2, 2)


@whylight.hookimpl
def whylight_methods():
    return [Misbehaving]
'''


def install_misbehaving(folder: Path) -> None:
    """Make a distribution with the plugin in `folder`, for PYTHONPATH."""
    (folder / "whylight_misbehaving.py").write_text(MISBEHAVING)
    info = folder / "whylight_misbehaving-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: whylight-misbehaving\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whylight]\nmisbehaving = whylight_misbehaving\n")


@asynccontextmanager
async def serving(*models: dict[str, Any], bounds: Bounds | None = None) -> AsyncIterator[tuple[Engine, LocalPool]]:
    config = WorkerConfig(models=models or (RESNET,), threads=1)
    pool = LocalPool([config], backoff=Backoff(first=0.01, most=0.1))
    engine = Engine(pool, bounds)
    await engine.start()
    try:
        yield engine, pool
    finally:
        await engine.drain(120.0)


def picture(seed: int) -> v1.Input:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return v1.Input(image=file.getvalue())


def work(*inputs: v1.Input, method: str = "grad-cam", options: dict[str, Any] | None = None, **spec: Any) -> Work:
    call = v1.MethodCall(name=method, options=dict_to_struct(options or {}))
    fields: dict[str, Any] = {"model": "resnet", "top_predictions": 1, "outputs": [v1.OutputSpec(map=v1.MapOutput())]}
    return Work(worker_pb2.PlanSpec(methods=[call], **{**fields, **spec}), inputs)


def explain(engine: Engine, *inputs: v1.Input, **rest: Any) -> asyncio.Task[list[v1.InputResult]]:
    return asyncio.ensure_future(engine.explain(work(*inputs, **rest)))


def maps(results: list[v1.InputResult]) -> list[bytes]:
    """The bits of every map."""
    return [explanation.artifacts[0].tensor.data for result in results for explanation in result.explained.explanations]
