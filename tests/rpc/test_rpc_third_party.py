"""A stranger's plugin, installed by pip into the server's environment: listed, served and batched as ours are."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from whylight.testing.server import RunningServer, running_server
from whylight.v1 import catalog_pb2, catalog_pb2_grpc, explanation_pb2_grpc
from whylight.v1 import explanation_pb2 as v1

PROJECT = Path(__file__).parents[1] / "plugins" / "third_party" / "whylight_thirdparty"
MODEL = {"name": "resnet18", "source": "torchvision:resnet18", "weights": "random:0"}
WORKER = {"devices": ["cpu"], "threads": 1}

BROKEN = """
[project]
name = "whylight-broken"
version = "0.0.1"

[project.entry-points.whylight]
broken = "whylight_broken"

[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[tool.setuptools]
py-modules = ["whylight_broken"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that has two strangers' distributions, a sound and a broken one, in its environment. It batches two."""
    sound = shutil.copytree(PROJECT, tmp_path_factory.mktemp("sound") / "whylight-thirdparty")  # building leaves things
    broken = tmp_path_factory.mktemp("broken")
    (broken / "pyproject.toml").write_text(BROKEN)
    (broken / "whylight_broken.py").write_text("raise RuntimeError('it broke when it was imported')\n")
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), str(sound), str(broken)]
    subprocess.run(command, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH")))))
        with running_server(
            models=[MODEL], worker=WORKER, batching={"max_batch": 2, "max_delay_seconds": 4}
        ) as running:
            yield running


def request(seed: int) -> v1.ExplainRequest:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return v1.ExplainRequest(
        methods=[v1.MethodCall(name="energy")],
        inputs=[v1.Input(image=file.getvalue(), targets=[v1.Target(class_index=seed)])],
    )


def test_it_is_listed_and_the_broken_one_beside_it_with_its_reason(server: RunningServer):
    with grpc.insecure_channel(server.address) as channel:
        catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        plugins = {plugin.name: plugin for plugin in catalog.ListPlugins(catalog_pb2.ListPluginsRequest()).plugins}
        method = catalog.GetMethod(catalog_pb2.GetMethodRequest(name="energy")).method
    ours = plugins["thirdparty"]
    assert (ours.distribution, ours.version, ours.state, list(ours.methods)) == (
        "whylight-thirdparty",
        "1.2.3",
        catalog_pb2.PLUGIN_STATE_ACTIVE,
        ["energy"],
    )
    assert plugins["broken"].state == catalog_pb2.PLUGIN_STATE_FAILED
    assert "it broke when it was imported" in plugins["broken"].error
    assert plugins["cam"].state == catalog_pb2.PLUGIN_STATE_ACTIVE
    assert method.plugin == "thirdparty"
    assert {"layer", "order"} <= set(method.options_schema["properties"])


def test_it_is_served_and_batched_across_clients_bit_for_bit(server: RunningServer):
    with contextlib.ExitStack() as stack:
        stubs = [
            explanation_pb2_grpc.ExplanationServiceStub(
                stack.enter_context(grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]))
            )
            for _ in range(2)
        ]
        alone = [stub.Explain(request(seed), timeout=60) for stub, seed in zip(stubs, (3, 500), strict=True)]
        calls = [stub.Explain.future(request(seed), timeout=60) for stub, seed in zip(stubs, (3, 500), strict=True)]
        together = [call.result() for call in calls]
    explained = [[answer.results[0].explained.explanations[0] for answer in answers] for answers in (alone, together)]
    assert [[one.execution.batch_size for one in answers] for answers in explained] == [[1, 1], [2, 2]]
    assert [one.target.class_index for one in explained[1]] == [3, 500]
    maps = [[one.artifacts[0].tensor for one in answers] for answers in explained]
    assert maps[0] == maps[1]
    assert list(maps[0][0].shape) == [7, 7]
    assert maps[0][0] != maps[0][1]


@pytest.mark.parametrize("order", [0, 9, "two"])
def test_an_option_out_of_its_range_is_refused_at_its_field_and_the_server_lives(server: RunningServer, order):
    sent = request(3)
    sent.methods[0].options.update({"order": order})
    with grpc.insecure_channel(server.address) as channel:
        stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Explain(sent, timeout=60)
        details = rpc_status.from_call(caught.value).details
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        assert details[0].Unpack(info)
        assert any(detail.Unpack(bad_request) for detail in details)
        assert (caught.value.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "OPTION_INVALID")
        assert [violation.field for violation in bad_request.field_violations] == ["methods[0].options.order"]
        assert stub.Explain(request(3), timeout=60).results[0].HasField("explained")
