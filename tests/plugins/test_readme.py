"""plugins/README.md is true: its plugin is the one that test_third_party.py installs, its tables are the code's."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import whylight
from whylight.hookspecs import Hookspecs
from whylight.plugins import Plugins

TESTS = Path(__file__).parent
README = (TESTS.parents[1] / "plugins" / "README.md").read_text()


@pytest.mark.parametrize("name", ["whylight_thirdparty.py", "pyproject.toml", "test_whylight_thirdparty.py"])
def test_the_files_of_the_example_are_those_that_are_installed_and_run(name):
    blocks = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)```$", README, re.DOTALL | re.MULTILINE))
    assert blocks[name] == (TESTS / "third_party" / "whylight_thirdparty" / name).read_text()


def test_the_example_is_twenty_lines():
    source = (TESTS / "third_party" / "whylight_thirdparty" / "whylight_thirdparty.py").read_text()
    assert len([line for line in source.splitlines() if line.strip() and not line.startswith('"""')]) <= 20


def test_every_hook_has_a_heading_with_its_arguments():
    hooks = {
        f"{name}({', '.join(list(inspect.signature(hook).parameters)[1:])})"
        for name, hook in vars(Hookspecs).items()
        if name.startswith("whylight_")
    }
    assert set(re.findall(r"^### (whylight_\w+\(.*\))$", README, re.MULTILINE)) == hooks


def test_every_call_of_a_subject_exists():
    calls = re.findall(r"^  \| `subject\.(\w+)\(", README, re.MULTILINE)
    public = {name for name, value in vars(whylight.Subject).items() if callable(value) and not name.startswith("_")}
    assert set(calls) == public


def test_the_table_of_packages_is_complete():
    ours = {point.name for point in entry_points(group="whylight") if point.value.startswith("whylight_")}
    plugins = Plugins(only=ours, strict=True)
    plugins.load()
    listed = set(re.findall(r"`([^`\s]+)`", README[: README.index("## Write your own")]))
    packages = {f"whylight_{name}" for name in plugins.infos}
    schemes = {f"{scheme}:" for scheme in plugins.sources}
    assert listed - {"whylight"} == packages | set(plugins.methods) | set(plugins.metrics) | schemes
