"""A plugin in a distribution of its own, installed by pip beside the server, is found, listed and used as ours are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from whylight.plugins import Plugins
from whylight.testing import conv_gap_net, run_method

PROJECT = Path(__file__).parent / "third_party" / "whylight_thirdparty"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The distribution's folder; a copy, for building leaves things behind."""
    return shutil.copytree(PROJECT, tmp_path_factory.mktemp("project") / "whylight-thirdparty")


@pytest.fixture(scope="module")
def installed(project, tmp_path_factory):
    """A folder that pip installed it into, on this process's path."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), str(project)]
    subprocess.run(command, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(target)
        yield target
    sys.modules.pop("whylight_thirdparty", None)


def python(*arguments, path, cwd):
    """Run another Python that has `path` on its path and is told nothing else."""
    run = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_it_is_found_and_listed_with_its_version(installed):
    plugins = Plugins(only={"thirdparty", "cam"}, strict=True)
    plugins.load()
    info = plugins.infos["thirdparty"]
    assert (info.distribution, info.version, info.state) == ("whylight-thirdparty", "1.2.3", "active")
    assert info.methods == ["energy"]
    assert plugins.methods["energy"].distribution == "whylight-thirdparty 1.2.3"
    assert {"energy", "grad-cam"} <= plugins.methods.keys()


def test_it_is_found_by_another_process(installed, tmp_path):
    code = "from whylight.plugins import Plugins; p = Plugins(); p.load(); print(p.infos['thirdparty'].state)"
    assert python("-c", code, path=installed, cwd=tmp_path).split() == ["active"]


def test_its_numbers(installed):
    plugins = Plugins(only={"thirdparty"}, strict=True)
    plugins.load()
    network = conv_gap_net()
    inputs = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(4))
    maps = run_method(plugins.methods["energy"].method, network, inputs, [0, (1, 2)]).maps
    with torch.no_grad():
        expected = network.features(inputs).norm(dim=1)[[0, 1, 1]]
    torch.testing.assert_close(maps, expected)


def test_it_explains_by_its_name_without_a_server(installed, tmp_path):
    """In another process: this one has loaded its plugins for good as soon as any test explained something."""
    code = """
import torch, whylight
from whylight.testing import conv_gap_net
explained = whylight.explain(conv_gap_net(), torch.rand(3, 32, 48), "energy", 2, options={"order": 1})
print(explained.explanation.method, *explained.explanation.map.shape)
"""
    assert python("-c", code, path=installed, cwd=tmp_path).split() == ["energy", "8", "12"]


def test_it_passes_its_own_tests_as_its_author_runs_them(project, installed):
    output = python("-m", "pytest", "-q", "-p", "no:cacheprovider", path=installed, cwd=project)
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) >= 28
