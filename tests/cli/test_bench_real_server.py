"""``whylight bench`` against a real server with a tiny model: every mode, and that an overload ends well for all."""

from __future__ import annotations

import json

import pytest

from whylight.testing.server import running_server
from whylight.wire import struct_to_dict

MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}
WORKER = {"devices": ["cpu"], "threads": 1}


@pytest.fixture(scope="module")
def address():
    with running_server(models=[MODEL], worker=WORKER) as running:
        yield running.address


@pytest.fixture
def bench(whylight_command):
    def run(address, *arguments):
        done = whylight_command("bench", "--server", address, "--size", "40x30", "--json", *arguments)
        assert done.code == 0, done.err
        report = json.loads(done.out)
        assert (report["unanswered"], report["answered_twice"]) == (0, 0)
        assert report["calls"] == report["succeeded"] + sum(report["errors"].values())
        return report

    return run


@pytest.mark.parametrize("mode", [(), ("--stream",), ("--stream", "--connections", 2)])
def test_closed_loop(bench, address, mode):
    report = bench(address, "--calls", 40, "--concurrency", 8, "-M", "grad-cam,saliency", "--inputs", 2, *mode)
    assert (report["calls"], report["succeeded"], report["processes"]) == (40, 40, 2)
    assert sum(report["batch_sizes"].values()) == 40 * 2 * 2  # calls, inputs, methods
    assert report["loop"] == "closed"
    assert report["queue_time"]["max"] <= report["latency"]["max"]


@pytest.mark.parametrize("mode", [(), ("--stream",)])
def test_open_loop_of_several_kinds(bench, address, mode, tmp_path):
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    how = ("--rate", 30, "--duration", 1, "--settle", 0.2, "--mix", "grad-cam=2,saliency=1", "--processes", 2)
    report = bench(address, *how, "--save", figures, "--plot", plot, *mode)
    assert report["calls"] == report["succeeded"] > 0
    assert report["sent"] > report["calls"]
    assert sum(kind["calls"] for kind in report["kinds"].values()) == report["calls"]
    assert json.loads(figures.read_text()) == report
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("mode", [(), ("--stream",)])
def test_overload_gives_every_call_one_answer_and_tells_refused_ones_when_to_come_again(bench, mode):
    """64 callers where eight calls have room: what is refused is told so at once, and everybody hears once."""
    bounds = {"queue": {"items": 4}, "limits": {"inputs": 4}, "batching": {"max_batch": 2}}
    with running_server(models=[MODEL], worker=WORKER, **bounds) as running:
        how = ("--calls", 600, "--concurrency", 64, "-M", "occlusion", "--warm-up", 0, *mode)
        report = bench(running.address, *how)
        again = bench(running.address, "--calls", 4, "--concurrency", 2, *mode)
    assert report["calls"] == report["sent"] == 600
    assert report["succeeded"] > 0
    assert report["errors"].keys() == {"RESOURCE_EXHAUSTED QUEUE_FULL"}
    refused = report["failures"]["RESOURCE_EXHAUSTED QUEUE_FULL"]
    assert refused["with_retry_after"] == refused["count"]
    assert again["succeeded"] == 4


def test_an_option_goes_to_its_method_or_to_all(whylight_command, server):
    how = ("-M", "a,b", "-O", "a.steps=3", "-O", "seen=true", "--calls", 1, "--warm-up", 0, "--size", "8x8")
    assert whylight_command("bench", "--server", server.address, *how).code == 0
    (request,) = server.requests
    assert [(method.name, struct_to_dict(method.options)) for method in request.methods] == [
        ("a", {"seen": True, "steps": 3}),
        ("b", {"seen": True}),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--rate", "5", "--calls", "5"),
        ("--calls", "5", "--duration", "1"),
        ("--mix", "grad-cam=none"),
        ("--size", "40"),
        ("--size", "0x5"),
    ],
)
def test_wrong_use_is_told(whylight_command, wrong):
    done = whylight_command("bench", "--server", "localhost:1", *wrong)
    assert done.code == 2
    assert "Error:" in done.err


def test_every_client_process_shows_the_token_that_the_command_was_given(whylight_command, server, tmp_path):
    kept = tmp_path / "token"
    kept.write_text("secret\n")
    kept.chmod(0o600)
    how = ("--server", server.address, "--token-file", kept, "--size", "8x8", "--calls", 6, "--concurrency", 2)
    assert whylight_command("bench", *how).code == 0
    explaining = [metadata for metadata in server.metadata if "authorization" in metadata]
    assert len(explaining) >= 6
    assert {metadata["authorization"] for metadata in explaining} == {"Bearer secret"}
