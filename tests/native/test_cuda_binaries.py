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
MOST_STACK = {"walk": 8}  # bytes: loop counters, once for each thread; never the data, and nothing in any other


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
        assert stack <= MOST_STACK.get(key[0], 0), key
        assert shared <= 48 << 10, key


@pytest.fixture(scope="module")
def sass(cuda_resources):
    """The instructions for sm_90."""
    tool, extension = cuda_resources.cuobjdump(), str(cuda_resources.extension())
    command = [tool, "--dump-sass", "--gpu-architecture", "sm_90", extension]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if not text.strip():
        pytest.skip("built for other architectures than sm_90")
    return text


OPERATION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", re.MULTILINE)


def test_instructions_are_those_that_were_meant(sass):
    """No arithmetic in double, no loads that go round the caches (`volatile`), no atomics: results repeat."""
    operations = set(OPERATION.findall(sass))
    assert not [operation for operation in operations if operation.startswith(("DADD", "DMUL", "DFMA"))]
    assert not [operation for operation in operations if ".STRONG.SYS" in operation]
    assert not [operation for operation in operations if operation.startswith(("ATOM", "RED"))]


VECTOR_KERNELS = (  # the last template argument says that tensors are read by vectors
    "pool_planar",
    "pool_channels_last",
    "weigh_planar",
    "weigh_channels_last",
    "combine_planar",
    "combine_channels_last",
)


@pytest.mark.parametrize("element", ["f", "6__half", "13__nv_bfloat16"])
@pytest.mark.parametrize("kernel", VECTOR_KERNELS)
def test_vector_kernels_of_cam_pool_load_sixteen_bytes_at_a_time(kernel, element, sass):
    """By vectors where there are any, and the same kernels without, for tensors that start off them."""
    bodies = re.split(r"^\s*Function : ", sass, flags=re.MULTILINE)[1:]
    for by_vectors in (True, False):
        instance = re.compile(rf"_ZN8whylight8cam_pool{len(kernel)}{kernel}I{element}\S*Lb{int(by_vectors)}EEEv")
        instances = [set(OPERATION.findall(body)) for body in bodies if instance.match(body)]
        assert len(instances) >= 3, "one per scheme"
        for operations in instances:
            assert any(re.match(r"LDG\.E\.128", operation) for operation in operations) == by_vectors
            assert not [operation for operation in operations if operation.startswith(("LDL", "STL"))]
