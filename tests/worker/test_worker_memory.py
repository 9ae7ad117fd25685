"""What a worker frees it keeps: the next batch takes no new pages from the kernel."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import torch
from whylight.worker.memory import keep_freed_memory
if sys.argv[1] != "0":
    assert keep_freed_memory(int(sys.argv[1]))

def batch():
    activations = [torch.ones(4 * 2**20) for _ in range(16)]  # 16 MiB each
    while activations:
        activations.pop()

for _ in range(4):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(kept: int) -> int:
    # Where the heap happens to end decides what glibc gives back by default; so it is told to give back all.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    command = [sys.executable, "-c", COUNT, str(kept)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide by themselves")
def test_freed_memory_is_kept_up_to_what_is_asked() -> None:
    """Four batches of 256 MiB are 262,144 pages of 4 KiB; huge pages, where the kernel gives them, are fewer."""
    new, kept = page_faults(0), page_faults(2**30)
    assert kept < new / 10
