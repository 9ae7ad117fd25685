"""The CUDA kernels on the CPU, under the emulator of csrc/tests with AddressSanitizer and UBSan: needs no GPU."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def build_and_run(source: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = folder / source.stem
    subprocess.run(["g++", *FLAGS, *SANITIZERS, *options, str(source), "-o", str(program)], check=True, timeout=200)
    # Fibers switch stacks under AddressSanitizer's feet; its fake stacks must stay off.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    return subprocess.run([str(program)], capture_output=True, text=True, env=environment, timeout=250, check=False)


@pytest.mark.parametrize("name", ["cam_pool_simt", "cam_render_simt", "gram_simt", "tv_loss_simt"])
def test_kernels_are_right_in_every_order_of_threads(name, tmp_path):
    done = build_and_run(CSRC / "tests" / f"{name}.cpp", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout


MUTATIONS = {
    "a barrier is gone": ("cam_pool/cam_pool_planar.cuh", "__syncthreads();  // folded is written", ""),
    "a slab is read before it is written": (
        "cam_pool/cam_pool_planar.cuh",
        "__syncthreads();  // the slabs are written",
        "",
    ),
    "a vector reaches past a slab": ("cam_pool/cam_pool_planar.cuh", "activations && v < vectors", "activations"),
    "a vector reaches past the channels": ("common/vectors.h", "if (count > 0) vector =", "vector ="),
    "a vector starts anywhere": (
        "cam_pool/cam_pool_launch.cuh",
        "return is_aligned(data)",
        "return data",
    ),
    "a bound is off by one": (
        "cam_pool/cam_pool_kernels.cuh",
        "if (index >= count) return;",
        "if (index > count) return;",
    ),
    "a barrier is in a branch": (
        "cam_pool/cam_pool_planar.cuh",
        "__syncthreads();  // folded is written",
        "if (warp == 0) __syncthreads();",
    ),
    "a tile is read before it is written": ("gram/gram_kernels.cuh", "__syncthreads();  // turned is written", ""),
    "a neighbour's flux is read too early": (
        "tv_loss/tv_loss_kernels.cuh",
        "__syncthreads();  // this row's half",
        "// this row's half",
    ),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_the_emulator_notices_when(what, tmp_path):
    """Kernels with a planted fault fail: what the test above says is worth something."""
    source, original, planted = MUTATIONS[what]
    shutil.copytree(CSRC, tmp_path / "csrc")
    kernels = tmp_path / "csrc" / source
    text = kernels.read_text()
    assert original in text
    kernels.write_text(text.replace(original, planted))
    operator = "cam_pool" if source.startswith("common") else Path(source).parent.name
    done = build_and_run(tmp_path / "csrc" / "tests" / f"{operator}_simt.cpp", tmp_path, "-DSIMT_ONE_TYPE")
    assert done.returncode != 0
