"""The build: its switches, and what the backend asks for; that it builds is what every other test here rests on."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def setup_py(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_switch_is_0_1_or_auto():
    done = setup_py("--version", WHYLIGHT_NATIVE="yes")
    assert done.returncode != 0
    assert "WHYLIGHT_NATIVE must be 0, 1 or auto, not 'yes'" in done.stderr


def test_cuda_that_is_demanded_and_not_there_fails_and_otherwise_is_left_out_loudly(tmp_path):
    done = setup_py("--version", WHYLIGHT_CUDA="1", CUDA_HOME=str(tmp_path))
    assert done.returncode != 0
    assert "CUDA kernels cannot be built: there is no CUDA toolkit" in done.stderr
    done = setup_py("--version", WHYLIGHT_CUDA="auto", CUDA_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "whylight is built WITHOUT CUDA kernels" in done.stderr


@pytest.fixture
def backend():
    spec = importlib.util.spec_from_file_location("backend", ROOT / "build_backend" / "backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_backend_asks_for_torch_only_where_none_can_be_lent(backend, monkeypatch):
    monkeypatch.delenv("WHYLIGHT_NATIVE", raising=False)
    assert backend._with_torch(["ninja"]) == ["ninja"]  # this environment has one
    monkeypatch.setattr(backend, "_lend_installed_torch", lambda: False)
    assert backend._with_torch(["ninja"]) == ["ninja", "torch>=2.11"]
    monkeypatch.setenv("WHYLIGHT_NATIVE", "0")
    assert backend._with_torch(["ninja"]) == ["ninja"]


def test_asking_for_requirements_leaves_the_switch_as_it_was(backend, monkeypatch):
    monkeypatch.setenv("WHYLIGHT_NATIVE", "1")
    with backend._without_native():
        assert os.environ["WHYLIGHT_NATIVE"] == "0"
    assert os.environ["WHYLIGHT_NATIVE"] == "1"
