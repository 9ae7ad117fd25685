"""The commands against a server: what is asked, what is printed and written, and with which exit code."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import whylight.client
from whylight.cli import printing
from whylight.errors import Overloaded
from whylight.target import ClassIndex, ClassLabel, Latent, Neuron, OutputIndex, Rank
from whylight.v1.explanation_pb2 import PRIORITY_BULK
from whylight.wire import outputs_from_proto, struct_to_dict, targets_from_proto


def test_explain_writes_one_picture_and_prints_tables(whylight_command, server, picture, tmp_path):
    out = tmp_path / "why.jpg"
    done = whylight_command(
        "explain", picture, "--server", server.address, "-o", out, "--style", "map", "--colour-map", "bwr",
        "--canvas", "original", "--boxes", "-t", 3, "-O", "layer=conv", "-O", "steps=50", "--seed", 9, "-m", "fake",
        "--priority", "bulk",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert out.read_bytes()
    assert "class 0" in done.out
    assert "class 7 (3)" in done.out
    assert str(out) in done.out
    (request,) = server.requests
    assert request.model == "fake"
    assert request.priority == PRIORITY_BULK
    assert struct_to_dict(request.methods[0].options) == {"layer": "conv", "steps": 50}
    assert request.methods[0].seed == 9
    drawn, boxes = outputs_from_proto(request.outputs)
    assert (drawn.format.value, drawn.style.value, drawn.colour_map, drawn.canvas.value) == (
        "jpeg",
        "map",
        "bwr",
        "original",
    )
    assert boxes.canvas.value == "original"


def test_explain_writes_a_folder_with_a_name_for_every_picture(whylight_command, server, picture, tmp_path):
    twin = tmp_path / "twin" / "cat.png"
    twin.parent.mkdir()
    twin.write_bytes(picture.read_bytes())
    out = tmp_path / "out"
    done = whylight_command(
        "explain",
        picture,
        twin,
        "--server",
        server.address,
        "-o",
        out,
        "-M",
        "grad-cam",
        "-M",
        "cam",
        "-t",
        1,
        "--json",
    )
    assert done.code == 0
    paths = [
        artifact["path"]
        for result in json.loads(done.out)["results"]
        for explanation in result["explanations"]
        for artifact in explanation["artifacts"]
    ]
    assert sorted(paths) == sorted(str(path) for path in out.iterdir())
    assert len(paths) == 4


def test_json_holds_everything_but_maps(whylight_command, server, picture):
    done = whylight_command("explain", picture, "--server", server.address, "--boxes", "--json", "--top", 2)
    (result,) = json.loads(done.out)["results"]
    assert result["image"] == str(picture)
    assert (result["original_size"], result["input_size"]) == ([20, 10], [4, 4])
    assert [prediction["class_index"] for prediction in result["predictions"]] == [0, 1]
    (explanation,) = result["explanations"]
    assert explanation["target"] == {"class_index": 7}
    assert explanation["checks"] == {"residual": 0.25}
    assert explanation["seed"] is None
    assert explanation["execution"]["batch_size"] == 1
    (boxes,) = explanation["artifacts"]
    assert boxes["boxes"][0] == {"left": 1.0, "top": 2.0, "right": 3.0, "bottom": 4.0, "score": 0.5}


def test_a_mask_lies_beside_its_picture(whylight_command, server, picture, tmp_path):
    out = tmp_path / "why.jpg"
    asked = ("explain", picture, "--server", server.address, "--mask", "--canvas", "input")
    done = whylight_command(*asked, "-o", out, "--json")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "why.mask.png") as mask:
        assert (mask.size, mask.getbbox(), mask.getextrema()) == ((20, 10), (4, 2, 14, 7), (0, 255))
    drawn, told = json.loads(done.out)["results"][0]["explanations"][0]["artifacts"]
    assert drawn["path"] == str(out)
    assert told == {
        "name": "mask",
        "path": str(tmp_path / "why.mask.png"),
        "media_type": "image/png",
        "width": 20,
        "height": 10,
        "share": 0.25,
    }
    (request,) = server.requests
    assert outputs_from_proto(request.outputs)[1].canvas.value == "input"
    done = whylight_command(*asked)
    assert done.code == 2
    assert "--out" in done.err


def test_one_bad_picture_among_good_ones(whylight_command, server, picture, tmp_path):
    missing = tmp_path / "missing.png"
    done = whylight_command("explain", missing, picture, "--server", server.address, "--json")
    assert done.code == 1
    failed, good = json.loads(done.out)["results"]
    assert failed["image"] == str(missing)
    assert failed["error"]["reason"] == "IMAGE_UNREADABLE"
    assert good["explanations"]
    done = whylight_command("explain", missing, picture, "--server", server.address)
    assert done.code == 1
    assert "IMAGE_UNREADABLE" in done.err
    assert "class 0" in done.out


def test_failed_call_is_one_readable_line(whylight_command, server, picture):
    done = whylight_command("explain", picture, "--server", server.address, "-m", "missing")
    assert (done.code, done.out) == (1, "")
    assert done.err == "whylight: model: there is no model 'missing' (MODEL_NOT_FOUND)\n"
    server.failures = [Overloaded("the queue is full", retry_after=2)]
    server.trailers = (("grpc-retry-pushback-ms", "-1"),)
    done = whylight_command("explain", picture, "--server", server.address)
    assert done.err == "whylight: the queue is full (QUEUE_FULL); try again in 2 s\n"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("281", ClassIndex(281)),
        ("tabby", ClassLabel("tabby")),
        ("label:281", ClassLabel("281")),
        ("rank:2", Rank(2)),
        ("latent:3", Latent(3)),
        ("output:1,2,3", OutputIndex((1, 2, 3))),
        ("neuron:layer4.1:7", Neuron("layer4.1", 7)),
        ("neuron:layer4.1:7:2,3", Neuron("layer4.1", 7, (2, 3))),
        ("a: b", ClassLabel("a: b")),
    ],
)
def test_targets(whylight_command, server, picture, text, target):
    assert whylight_command("explain", picture, "--server", server.address, "-t", text).code == 0
    assert targets_from_proto(server.requests[0].targets) == (target,)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=0.5", 0.5),
        ("a=true", True),
        ("a=[1,2]", [1, 2]),
        ("a=layer4.1", "layer4.1"),
        ('a="1"', "1"),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ("a=NaN", "NaN"),
    ],
)
def test_options(whylight_command, server, picture, text, value):
    assert whylight_command("explain", picture, "--server", server.address, "-O", text).code == 0
    assert struct_to_dict(server.requests[0].methods[0].options) == {"a": value}


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain",),
        ("explain", "{picture}", "-O", "nothing"),
        ("explain", "{picture}", "-t", "neuron:a"),
        ("explain", "{picture}", "-t", "rank:first"),
        ("explain", "{picture}", "-o", "why.bmp"),
        ("explain", "{picture}", "-o", "why.png", "-t", "1", "-t", "2"),
        ("explain", "{picture}", "--style", "sketch"),
        ("explain", "{picture}", "--server", "localhost:1", "--device", "cpu"),
        ("bench", "{picture}"),
        ("serve", "--port", "99999"),
        ("serve", "--model", "resnet50"),
        ("serve", "--config", "nowhere.toml"),
        ("unknown",),
    ],
)
def test_wrong_use_is_exit_code_2(whylight_command, picture, arguments):
    done = whylight_command(*(str(argument).format(picture=picture) for argument in arguments))
    assert done.code == 2
    assert "Error:" in done.err
    assert "Traceback" not in done.err


def test_token_is_not_sent_in_the_clear(whylight_command, server, picture, monkeypatch):
    monkeypatch.setenv("WHYLIGHT_TOKEN", "secret")
    assert whylight_command("methods", "--server", "explain.example.com:1").code == 2
    assert whylight_command("methods", "--server", server.address).code == 0
    assert server.metadata[0]["authorization"] == "Bearer secret"


def test_a_token_in_a_file_wins_and_is_not_sent_in_the_clear(whylight_command, server, tmp_path, monkeypatch):
    monkeypatch.setenv("WHYLIGHT_TOKEN", "of the environment")
    kept = tmp_path / "token"
    kept.write_text("secret\n")
    assert whylight_command("methods", "--server", "explain.example.com:1", "--token-file", kept).code == 2
    assert whylight_command("methods", "--server", server.address, "--token-file", kept).code == 0
    assert server.metadata[0]["authorization"] == "Bearer secret"
    kept.write_text("two words")
    refused = whylight_command("methods", "--server", server.address, "--token-file", kept)
    assert (refused.code, "not one token" in refused.err) == (2, True)
    assert "come together" in whylight_command("methods", "--server", server.address, "--cert", kept).err


def test_catalog(whylight_command, server):
    at = ("--server", server.address)
    assert [method["name"] for method in json.loads(whylight_command("methods", *at, "--json").out)] == [
        f"method-{k}" for k in range(5)
    ]
    assert "method-4" in whylight_command("methods", *at).out
    described = whylight_command("methods", "method-1", *at).out
    assert "steps" in described
    assert "50" in described
    schema = json.loads(whylight_command("methods", "method-1", *at, "--json").out)["options_schema"]
    assert schema["properties"]["steps"]["default"] == 50
    assert "fake *" in whylight_command("models", *at).out
    assert "labels" not in json.loads(whylight_command("models", *at, "--json").out)[0]
    assert "Conv2d" in whylight_command("models", "fake", *at).out
    assert json.loads(whylight_command("models", "fake", *at, "--json").out)["labels"] == ["cat", "dog"]
    assert "no such module" in whylight_command("plugins", *at).out
    assert json.loads(whylight_command("plugins", *at, "--json").out)[0]["state"] == "active"


def test_catalog_of_a_server_that_has_not_what_is_asked_for(whylight_command, server):
    done = whylight_command("methods", "other", "--server", server.address)
    assert done.code == 1
    assert done.err == "whylight: name: there is no other (METHOD_NOT_FOUND)\n"


def test_bench_counts_every_call(whylight_command, server, picture):
    done = whylight_command(
        "bench", picture, "--server", server.address, "--calls", 30, "--concurrency", 4, "--warm-up", 2, "--json"
    )
    assert done.code == 0
    report = json.loads(done.out)
    assert (report["calls"], report["succeeded"], report["errors"]) == (30, 30, {})
    assert report["batch_sizes"] == {"1": 30}
    assert 0 < report["latency"]["p50"] <= report["latency"]["p90"] <= report["latency"]["p99"]
    assert report["throughput"] == pytest.approx(30 / report["seconds"])
    assert len(server.requests) == 32


def test_bench_counts_refusals_and_does_not_try_again(whylight_command, server, picture):
    server.failures = [None, Overloaded("full"), Overloaded("full"), None]
    done = whylight_command(
        "bench", picture, "--server", server.address, "--calls", 5, "--concurrency", 1, "--warm-up", 0, "--json"
    )
    report = json.loads(done.out)
    assert (report["succeeded"], report["errors"]) == (3, {"RESOURCE_EXHAUSTED QUEUE_FULL": 2})
    server.failures = [Overloaded("full")] * 3
    done = whylight_command(
        "bench", picture, "--server", server.address, "--calls", 3, "--concurrency", 1, "--warm-up", 0
    )
    assert done.code == 1
    assert "failed: RESOURCE_EXHAUSTED QUEUE_FULL" in done.out


def test_client_is_what_the_package_exports():
    assert whylight.Client is whylight.client.Client


def test_on_a_terminal_a_bar_shows_how_far_it_is(whylight_command, server, picture, monkeypatch):
    """The answer is held back until the last progress has been shown."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    server.reports = 3
    server.hold.clear()
    tell = printing.Bars.tell

    def told(bars, index, doing, done, total):
        tell(bars, index, doing, done, total)
        if done == 3:
            server.hold.set()

    monkeypatch.setattr(printing.Bars, "tell", told)
    done = whylight_command("explain", picture, "-M", "rise", "--server", server.address)
    assert done.code == 0
    assert "rise" in done.err
    assert "3/3" in done.err
    assert "class 0" in done.out
    assert len(server.specs) == 1


def test_each_of_several_pictures_has_its_bar_until_it_is_done(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with printing.bars("explaining", ["a.png", "b[0].png"]) as bars:
        bars.tell(1, "rise", 2, 8)
        bars.tell(1, "lime", 1, 4)
        every, second = bars._bar.tasks
        assert (every.description, every.completed, every.total) == ("explaining", 0, 2)
        assert (second.description, second.completed, second.total) == ("  b[0].png: lime", 1, 4)
        bars.end(1)
        (every,) = bars._bar.tasks
        assert every.completed == 1


def test_in_a_pipe_nobody_asks_how_far_it_is(whylight_command, server, picture):
    assert whylight_command("explain", picture, picture, "-M", "rise", "--server", server.address).code == 0
    assert whylight_command("explain", picture, "-M", "rise", "--server", server.address).code == 0
    assert server.specs == []


def test_on_a_terminal_one_picture_that_finds_no_room_is_tried_again(whylight_command, server, picture, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    server.failures = [Overloaded("full")]
    done = whylight_command("explain", picture, "--server", server.address)
    assert done.code == 0
    assert "class 0" in done.out


def test_health_is_an_exit_code(whylight_command, server):
    done = whylight_command("health", "--server", server.address, "--wait", 20)
    assert (done.code, done.out) == (0, "serving\n")


def test_a_server_that_does_not_serve_or_is_not_there_is_not_healthy(whylight_command, server):
    server.serving(False)
    service = "whylight.v1.ExplanationService"
    done = whylight_command("health", "--server", server.address, "--service", service, "--wait", 0.2)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"not serving: {server.address} did not say within 0.2 s")
    assert whylight_command("health", "--server", "127.0.0.1:1", "--wait", 0.2).code == 1
