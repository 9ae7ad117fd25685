"""The extension as torch sees it: registered, traceable, abi3, fresh, and never needed."""

import logging
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from whylight import ops
from whylight.ops import Scale, native
from whylight.ops.source_digest import source_digest

ROOT = Path(__file__).parents[2]
OPERATORS = ("cam_pool", "cam_render", "cam_overlay", "tv_loss", "tv_loss_with_gradient")

built = pytest.mark.skipif(not ops.native_status().available, reason=ops.native_status().description)


def extension_file() -> str:
    import whylight._C

    return str(whylight._C.__file__)


@built
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_a_kernel_for_each_device_that_the_status_names(operator):
    for device, expected in (("CPU", True), ("CUDA", ops.native_status().cuda)):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"whylight::{operator}", device) is expected


@built
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_where_there_is_a_cuda_compiler_there_are_cuda_kernels():
    status = ops.native_status()
    assert status.cuda, status.description
    assert status.description.startswith("yes (CPU and CUDA "), status.description


@built
def test_one_file_serves_every_python_and_every_torch():
    file = extension_file()
    assert file.endswith("_C.abi3.so")
    found = subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True).stdout
    needed = [line for line in found.splitlines() if "NEEDED" in line]
    # The libraries with an unstable ABI, and those of a CUDA that may not be there.
    assert not [line for line in needed if any(name in line for name in ("torch_python", "cuda", "libpython"))], needed


@built
def test_only_what_torch_keeps_stable_is_used():
    auditor = Path(sys.executable).with_name("torch-abi-audit")
    if not auditor.exists():
        pytest.skip("torch-abi-audit is not installed")
    audit = subprocess.run([str(auditor), extension_file()], capture_output=True, text=True, check=False)
    assert audit.returncode == 0, audit.stdout + audit.stderr
    for line in (r"Torch ABI:\s+STABLE", r"Min torch:\s+2\.11\.0", r"CPython ABI:\s+abi3"):
        assert re.search(line, audit.stdout), audit.stdout


def cases():
    activations, gradients = torch.rand(2, 5, 7, 7), torch.randn(3, 5, 7, 7)
    colours, images = ops.colour_table("jet"), torch.zeros(2, 9, 8, 3, dtype=torch.uint8)
    codes = Scale(normalise="both").codes
    yield "cam_pool", (activations, gradients[:2], 0, None, 0.0)
    yield "cam_pool", (activations.to(memory_format=torch.channels_last), gradients, 1, [0, 0, 1], 1e-6)
    yield "cam_pool", (activations.double(), gradients[:2, :, :1, :1].expand(2, 5, 7, 7), 4, None, 0.0)
    yield "cam_render", (torch.randn(2, 7, 7), 9, 8, *codes, 2)
    yield "cam_render", (torch.randn(2, 7, 7).half(), 9, 8, *codes, 1)
    yield "cam_overlay", (torch.randn(2, 7, 7), 9, 8, *codes, colours, None, 1.0)
    yield "cam_overlay", (torch.randn(2, 7, 7), 9, 8, *codes, colours, images, 0.5)


@built
@pytest.mark.parametrize(
    ("operator", "arguments"), list(cases()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_torch_finds_nothing_wrong_with_the_operator(operator, arguments):
    torch.library.opcheck(getattr(torch.ops.whylight, operator).default, arguments)


@built
def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones():
    def run(device):
        activations = torch.rand(2, 5, 7, 7, device=device, dtype=torch.bfloat16)
        gradients = torch.rand(3, 5, 7, 7, device=device)
        colours = torch.zeros(256, 3, dtype=torch.uint8, device=device)
        maps = ops.cam_pool(activations, gradients, "grad-cam", [0, 0, 1])
        rendered = ops.cam_render(maps, (9, 8), Scale(), dtype=torch.uint8)
        painted = ops.cam_overlay(maps.half(), (9, 8), Scale(), colours)
        results = [maps, *(getattr(r, name) for r in (rendered, painted) for name in ("values", "low", "high"))]
        return [(tuple(t.shape), t.dtype, t.stride()) for t in results], {t.device.type for t in results}

    real, _ = run("cpu")
    with FakeTensorMode():
        assert run("cpu") == (real, {"cpu"})
        assert run("cuda") == (real, {"cuda"})


@built
def test_fakes_refuse_what_the_kernels_refuse():
    with FakeTensorMode():
        with pytest.raises(RuntimeError, match="3 targets for 2 inputs need rows"):
            ops.cam_pool(torch.rand(2, 5, 7, 7), torch.rand(3, 5, 7, 7), "grad-cam")
        with pytest.raises(RuntimeError, match="must agree with activations"):
            ops.cam_pool(torch.rand(2, 5, 7, 7), torch.rand(2, 4, 7, 7), "grad-cam")


@built
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic):
    scale, colours = Scale(rectify=True), ops.colour_table("turbo")

    def explain(activations, gradients):
        maps = ops.cam_pool(activations * 2, gradients, "grad-cam++", eps=1e-6)
        painted = ops.cam_overlay(maps, (20, 30), scale, colours)
        return maps, ops.cam_render(maps, (20, 30), scale).values, painted.values

    compiled = torch.compile(explain, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for count in (2, 3):
        arguments = torch.rand(count, 8, 7, 7), torch.randn(count, 8, 7, 7)
        for actual, expected in zip(compiled(*arguments), explain(*arguments), strict=True):
            assert torch.equal(actual, expected)


def in_a_fresh_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )


def test_everything_works_without_the_extension_and_says_why():
    code = """
import torch
from whylight import ops
assert ops.native_status() == ops.NativeStatus(False, False, "no (switched off by WHYLIGHT_NATIVE=0)")
maps = ops.cam_pool(torch.rand(2, 3, 7, 7), torch.rand(3, 3, 7, 7), "grad-cam", [0, 0, 1])
print(maps.shape, ops.cam_render(maps, (9, 8), ops.Scale(), dtype=torch.uint8).values.dtype)
print(ops.cam_overlay(maps, (9, 8), ops.Scale(), ops.colour_table("jet")).values.shape)
"""
    done = in_a_fresh_process(code, WHYLIGHT_NATIVE="0")
    assert done.stdout == "torch.Size([3, 7, 7]) torch.uint8\ntorch.Size([3, 9, 8, 3])\n"
    assert done.stderr == ""


def test_a_missing_extension_is_loud():
    code = """
import sys
sys.modules["whylight._C"] = None  # what importing a module that cannot be had does
from whylight import ops
print(ops.native_status().description)
"""
    done = in_a_fresh_process(code, WHYLIGHT_NATIVE="auto")
    assert done.stdout.startswith("no (whylight was built without its extension")
    assert "whylight runs without its native operators" in done.stderr


def test_a_stale_extension_is_loud(caplog, monkeypatch):
    monkeypatch.setattr(native, "_CSRC", ROOT / "csrc")  # as in a checkout, also where a wheel is tested
    fresh = types.ModuleType("_C")
    fresh.source_digest = source_digest(ROOT / "csrc")
    stale = types.ModuleType("_C")
    stale.source_digest = "of other sources"
    with caplog.at_level(logging.WARNING, "whylight.ops"):
        assert native._warn_if_stale(fresh) == ""
        assert not caplog.records
        assert "STALE" in native._warn_if_stale(stale)
    assert "pip install -e ." in caplog.text


def test_an_extension_that_lacks_an_operator_is_not_used():
    code = """
import sys, types
sys.modules["whylight._C"] = types.ModuleType("whylight._C")  # loads, and registers nothing
from whylight import ops
print(ops.native_status().description)
"""
    done = in_a_fresh_process(code, WHYLIGHT_NATIVE="auto")
    assert done.stdout.startswith("no (the extension is older than this code and lacks cam_pool")
    assert "whylight runs without its native operators" in done.stderr


def test_the_operators_asked_for_are_those_of_the_schema():
    defined = re.findall(r'm\.def\(\s*"(\w+)\(', (ROOT / "csrc" / "schema.cpp").read_text())
    assert sorted(defined) == sorted(native.OPERATORS)


def test_the_digest_is_of_sources_not_of_tests(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "kernel.cu").write_text("one")
    before = source_digest(tmp_path)
    (tmp_path / "tests" / "kernel.cpp").write_text("two")
    (tmp_path / "notes.md").write_text("three")
    assert source_digest(tmp_path) == before
    (tmp_path / "kernel.cu").write_text("four")
    assert source_digest(tmp_path) != before
