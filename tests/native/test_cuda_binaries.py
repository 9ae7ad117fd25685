"""What nvcc made of the kernels, read from the extension without a GPU: registers, spills, no doubles, no atomics."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from whylight import ops

SCRIPT = Path(__file__).parents[2] / "scripts" / "cuda_resources.py"
SLACK = 8  # registers by which one nvcc may differ from another
MOST_STACK = 16  # bytes: a few loop counters, once for each thread; never the data


@pytest.fixture(scope="module")
def cuda_resources():
    spec = importlib.util.spec_from_file_location("cuda_resources", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not ops.native_status().cuda:
        pytest.skip("the extension has no CUDA kernels: there was no nvcc")
    if module.cuobjdump() is None:
        pytest.skip("there is no cuobjdump")
    return module


@pytest.fixture(scope="module")
def taken(cuda_resources):
    return cuda_resources.resources(cuda_resources.cuobjdump(), cuda_resources.extension())


def test_kernels_take_no_more_than_was_written_down(cuda_resources, taken):
    written = cuda_resources.read_table()
    assert {kernel for kernel, _ in taken} == {kernel for kernel, _ in written}
    for key, (registers, stack, shared) in taken.items():
        if key in written:
            most_registers, most_stack, most_shared = written[key]
            assert registers <= most_registers + SLACK, key
            assert stack <= most_stack, key
            assert shared <= most_shared, key


def test_kernels_fit_and_do_not_spill(taken):
    for key, (registers, stack, shared) in taken.items():
        assert registers <= 128, key  # two blocks of 256 threads on every architecture
        assert stack <= MOST_STACK, key
        assert shared <= 48 << 10, key


def test_instructions_are_those_that_were_meant(cuda_resources):
    """No arithmetic in double, no loads that go round the caches (`volatile`), no atomics: results repeat."""
    command = [
        cuda_resources.cuobjdump(),
        "--dump-sass",
        "--gpu-architecture",
        "sm_90",
        str(cuda_resources.extension()),
    ]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if not sass.strip():
        pytest.skip("built for other architectures than sm_90")
    operations = set(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", sass, re.MULTILINE))
    assert not [operation for operation in operations if operation.startswith(("DADD", "DMUL", "DFMA"))]
    assert not [operation for operation in operations if ".STRONG.SYS" in operation]
    assert not [operation for operation in operations if operation.startswith(("ATOM", "RED"))]
