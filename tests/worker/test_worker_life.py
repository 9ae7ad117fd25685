"""A worker process by itself: what it does when its front end is gone, and what it sets before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

FRONT_END = """
import asyncio, os, sys
from worker_serving import serving
async def main():
    async with serving() as (engine, pool):
        print(pool.pids[0], flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def test_a_worker_whose_front_end_is_killed_ends() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    front_end = subprocess.Popen([sys.executable, "-c", FRONT_END], stdout=subprocess.PIPE, env=environment)
    assert front_end.stdout is not None
    with front_end.stdout:
        worker = psutil.Process(int(front_end.stdout.readline()))
    front_end.kill()
    front_end.wait()
    worker.wait(timeout=120)
    assert not worker.is_running()


def test_a_worker_waits_passively_and_computes_with_the_threads_that_it_is_told() -> None:
    """OpenMP reads its settings when torch is loaded: after that it is too late."""
    code = """
import sys
from whylight.worker import __main__ as worker
from whylight.worker.config import WorkerConfig
assert "torch" not in sys.modules
worker._prepare_environment(WorkerConfig(threads=1))
import os
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE", os.environ["OMP_WAIT_POLICY"]
import torch
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
