"""What operators copy: manifests that a cluster takes, waits that fit together, an image that lints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from whylight.rpc.health import LIVENESS
from whylight.serve import WORKER_EXIT_SECONDS
from whylight.settings import Settings, load_settings

HADOLINT = Path(sys.executable).parent / "hadolint"
DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = {
    document["kind"]: document for document in yaml.safe_load_all((DEPLOY / "kubernetes" / "whylight.yaml").read_text())
}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "whylight.toml"
    file.write_text(MANIFESTS["ConfigMap"]["data"]["whylight.toml"])
    return load_settings(file)


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_cluster_takes_the_manifests(kind: str):
    assert kubernetes_validate.validate(MANIFESTS[kind], desired_version="1.32", strict=True)


def test_what_the_overlays_name_is_there():
    for kustomization in (DEPLOY / "kubernetes").rglob("kustomization.yaml"):
        written = yaml.safe_load(kustomization.read_text())
        for name in [*written["resources"], *(patch["path"] for patch in written.get("patches", ()))]:
            assert (kustomization.parent / name).exists()
    patch = yaml.safe_load((DEPLOY / "kubernetes" / "gpu" / "one-gpu.yaml").read_text())
    assert patch["metadata"]["name"] == MANIFESTS["Deployment"]["metadata"]["name"]
    assert [one["name"] for one in patch["spec"]["template"]["spec"]["containers"]] == [CONTAINER["name"]]


def test_the_ports_are_those_of_the_settings(settings: Settings):
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"grpc": settings.server.port, "metrics": settings.metrics.port}
    annotations = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics.port)
    rules = MANIFESTS["NetworkPolicy"]["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == set(ports)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["grpc"]["port"] == settings.server.port
    assert all(port["targetPort"] in ports for port in MANIFESTS["Service"]["spec"]["ports"])


def test_a_pod_is_restarted_for_being_dead_and_not_for_being_busy(settings: Settings):
    assert CONTAINER["livenessProbe"]["grpc"]["service"] == LIVENESS
    assert "service" not in CONTAINER["readinessProbe"]["grpc"]
    startup = CONTAINER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= settings.worker.start_timeout_seconds


def test_a_pod_has_the_time_to_drain(settings: Settings):
    readiness = CONTAINER["readinessProbe"]
    assert settings.server.lame_duck_seconds > readiness["periodSeconds"] * readiness["failureThreshold"]
    needed = settings.server.lame_duck_seconds + settings.server.drain_seconds + WORKER_EXIT_SECONDS
    assert POD["terminationGracePeriodSeconds"] > needed


def test_what_the_settings_write_to_is_mounted(settings: Settings):
    mounted = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")}
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert settings.cache_folder in mounted


def test_the_unit_of_systemd_has_the_time_to_drain():
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # names of units have capitals
    unit.read(DEPLOY / "systemd" / "whylight.service")
    settings = load_settings(DEPLOY / "systemd" / "whylight.toml")
    needed = settings.server.lame_duck_seconds + settings.server.drain_seconds + WORKER_EXIT_SECONDS
    assert float(unit["Service"]["TimeoutStopSec"]) > needed
    assert unit["Service"]["ExecStart"].endswith("--config /etc/whylight/whylight.toml")
    assert settings.cache_folder == f"/var/cache/{unit['Service']['CacheDirectory']}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path):
    unit = tmp_path / "whylight.service"
    text = (DEPLOY / "systemd" / "whylight.service").read_text()
    unit.write_text(text.replace("/opt/whylight/bin/whylight", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_dockerfile_lints():
    done = subprocess.run([HADOLINT, DEPLOY / "docker" / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
