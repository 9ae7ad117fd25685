"""The shell scripts that prove what this machine may lack: their plan, their refusals, and what shellcheck says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GPU = ROOT / "benchmarks" / "gpu.sh"
SCRIPTS = [GPU, ROOT / "scripts" / "check_torch_versions.sh"]


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_dry_run_prints_every_step_in_order_and_needs_no_gpu():
    done = run(GPU, "--dry-run", PYTHON="a-python")
    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    names = ["build", "tests", "memcheck", "racecheck", "initcheck", "synccheck", "ops", "grad-cam"]
    assert [line.split()[0] for line in steps] == names
    assert all(" a-python " in line for line in steps)
    for line, tool in zip(steps[2:6], names[2:6], strict=True):
        assert f"compute-sanitizer --tool {tool} --error-exitcode 1" in line
    assert last.startswith("writes benchmarks/results/")


def test_the_scripts_that_a_step_runs_are_there():
    words = run(GPU, "--dry-run").stdout.split()
    scripts = [word for word in words if word.startswith("benchmarks/") and word.endswith(".py")]
    assert scripts == ["benchmarks/ops.py", "benchmarks/grad_cam.py"]
    assert all((ROOT / script).is_file() for script in scripts)


def test_a_step_can_be_skipped():
    lines = run(GPU, "--dry-run", "--skip", "build", "--skip", "ops").stdout.splitlines()
    assert {line.split()[0] for line in lines}.isdisjoint({"build", "ops"})
    assert any(line.startswith("grad-cam") for line in lines)


def test_without_a_gpu_it_fails_and_says_what_is_missing(tmp_path):
    for tool in ("bash", "dirname", "date"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = run(GPU, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "gpu.sh: nvidia-smi is not on the path\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_says_how_it_is_used_and_refuses_what_it_does_not_know(script):
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"{script.relative_to(ROOT)} [" in done.stdout
    done = run(script, "--nonsense")
    assert done.returncode == 2
    assert done.stderr == "unknown option --nonsense; --help lists them\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_page_tells_what_the_kept_run_of_the_benchmark_holds():
    script = ROOT / "benchmarks" / "op_page.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
