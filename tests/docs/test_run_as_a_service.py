"""The page about running whylight as a service: what it has people copy is what the server takes."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from test_examples import ROOT, example, python

from whylight.cli.health import command
from whylight.rpc.health import LIVENESS
from whylight.settings import Settings

PAGE = ROOT / "docs" / "how-to" / "run-as-a-service.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_a_client_that_takes_turns_can_be_made(tmp_path: Path):
    python(example(PAGE, "round robin"), tmp_path)


def test_what_is_written_as_yaml_and_toml_is_known():
    probe, mounts = map(yaml.safe_load, blocks("yaml"))
    arguments = probe["readinessProbe"]["exec"]["command"]
    assert arguments[:2] == ["whylight", "health"]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known
    (mount,) = mounts["volumeMounts"]
    (toml,) = blocks("toml")
    assert f'tokens_file = "{mount["mountPath"]}/' in toml
    assert "tokens_file" in type(Settings().authentication).model_fields


def test_the_waits_are_those_of_the_manifests():
    (pod,) = [
        document["spec"]["template"]["spec"]
        for document in yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "whylight.yaml").read_text())
        if document["kind"] == "Deployment"
    ]
    page = PAGE.read_text()
    assert f"| `terminationGracePeriodSeconds` | {pod['terminationGracePeriodSeconds']} |" in page
    startup = pod["containers"][0]["startupProbe"]
    assert f"| {startup['failureThreshold']} × {startup['periodSeconds']} s |" in page
    assert f"`{LIVENESS}`" in page
