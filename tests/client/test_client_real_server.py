"""The client and the command line against the real server: the answer is the one that is given in process."""

from __future__ import annotations

import io
import json
import sys
from contextlib import aclosing

import numpy as np
import pytest
from PIL import Image

import whylight
from whylight.client import Input, MethodCall, Request
from whylight.errors import DeadlineExceeded, InvalidInput, NotFound
from whylight.target import ClassIndex, Neuron
from whylight.testing.server import running_server

SOURCE = "torchvision:resnet18"
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def png(pixels=PIXELS):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def address():
    model = {"name": "small", "source": SOURCE, "weights": "random:0"}
    with running_server(models=[model], worker={"devices": ["cpu"], "threads": 1}) as running:
        yield running.address


@pytest.fixture
def real(address):
    with whylight.Client(address) as client:
        client.wait_ready(60)
        yield client


@pytest.fixture(scope="module")
def model():
    from whylight.models import ModelConfig, open_model
    from whylight.plugins import Plugins

    plugins = Plugins()
    plugins.load()
    return open_model(ModelConfig(name="small", source=SOURCE, weights="random:0"), plugins.sources, "cpu")


OUTPUTS = [
    whylight.MapOutput(),
    whylight.MapOutput("whole", whylight.Canvas.ORIGINAL, "uint8", True),
    whylight.PictureOutput(colour_map="viridis", opacity=0.3),
    whylight.BoxesOutput(threshold=0.4, limit=3),
]


@pytest.mark.parametrize("method", ["grad-cam", "cam", "layer-cam", "saliency"])
def test_answer_is_that_of_this_process(real, model, method):
    target = [ClassIndex(7), whylight.Rank(1)] + ([Neuron("layer3", 5)] if method == "saliency" else [])
    here = whylight.explain(model, PIXELS, method, target, outputs=OUTPUTS)
    there = real.explain(PIXELS, method, target=target, outputs=OUTPUTS)
    assert there.original_size == here.original_size == (90, 60)
    assert there.input_size == here.input_size
    assert [one.class_index for one in there.predictions] == [one.class_index for one in here.predictions]
    for one, other in zip(there.explanations, here.explanations, strict=True):
        assert (one.target, one.method, one.method_version) == (other.target, other.method, other.method_version)
        assert dict(one.options) == dict(other.options)
        assert one.target_score == pytest.approx(other.target_score, rel=1e-4)
        np.testing.assert_allclose(one.map, other.map, rtol=1e-3, atol=1e-3 * np.abs(other.map).max())
        assert one["whole"].array.shape == (60, 90)
        assert np.abs(np.int16(one["whole"].array) - np.int16(other["whole"].array)).max() <= 2
        with one.picture.image() as drawn, other.picture.image() as twin:
            assert np.abs(np.int16(np.asarray(drawn)) - np.int16(np.asarray(twin))).max() <= 8
        assert len(one.boxes) == len(other.boxes)


def test_every_form_of_a_picture_is_the_same_picture(real, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    images = [path, png(), Image.fromarray(PIXELS), PIXELS]
    maps = [result.explanation.map for result in real.explain(images, target=3, raise_errors=True)]
    assert all(np.array_equal(map_, maps[0]) for map_ in maps)


def test_turned_photograph_is_the_same_opened_here_and_sent_as_a_file(real):
    picture = Image.fromarray(PIXELS)
    exif = picture.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        results = real.explain([file.getvalue(), opened], target=3, raise_errors=True)
    assert results[0].original_size == results[1].original_size == (60, 90)
    np.testing.assert_array_equal(results[0].explanation.map, results[1].explanation.map)


def test_bad_images_keep_their_place(real):
    results = real.explain([PIXELS, b"not a picture", np.full((3, 9, 9), np.nan, np.float32), png()])
    assert [type(result).__name__ for result in results] == ["Explained", "InvalidInput", "InvalidInput", "Explained"]
    assert [result.reason for result in results[1:3]] == ["IMAGE_UNREADABLE", "TENSOR_INVALID"]
    assert results[1].violations[0].field == "inputs[1].image"
    assert results[2].violations[0].field.startswith("inputs[2].tensor")


@pytest.mark.parametrize(
    ("arguments", "keywords", "kind", "reason"),
    [
        ((), {"model": "other"}, NotFound, "MODEL_NOT_FOUND"),
        (("no-such-method",), {}, NotFound, "METHOD_NOT_FOUND"),
        ((), {"options": {"layer": "nowhere"}}, NotFound, "LAYER_NOT_FOUND"),
        ((), {"options": {"stride": 2}}, InvalidInput, "OPTION_INVALID"),
        ((), {"target": 10_000}, InvalidInput, "TARGET_INVALID"),
        ((), {"target": "unicorn"}, NotFound, "LABEL_NOT_FOUND"),
        ((), {"outputs": [whylight.PictureOutput(colour_map="mud")]}, InvalidInput, "OUTPUT_INVALID"),
    ],
)
def test_wrong_requests_are_typed_errors(real, arguments, keywords, kind, reason):
    with pytest.raises(kind) as caught:
        real.explain(PIXELS, *arguments, **keywords)
    assert caught.value.reason == reason
    assert caught.value.violations


def test_methods_with_options_of_their_own(real):
    calls = [MethodCall("grad-cam", {"layer": "layer2"}), "hires-cam"]
    explained = real.explain(PIXELS, calls, target=[1, 2])
    assert [(one.method, one.target.index) for one in explained.explanations] == [
        ("grad-cam", 1),
        ("grad-cam", 2),
        ("hires-cam", 1),
        ("hires-cam", 2),
    ]
    assert explained.explanations[0].options["layer"] == "layer2"
    assert explained.explanations[0].map.shape > explained.explanations[2].map.shape


def test_many_images_over_one_call(real):
    images = [np.roll(PIXELS, k, axis=1) for k in range(24)]
    images[5] = b"not a picture"
    images[6] = Input(PIXELS, target=9)
    results = dict(real.explain_many(images, target=3, top_predictions=0))
    assert sorted(results) == list(range(24))
    assert results[5].reason == "IMAGE_UNREADABLE"
    assert results[6].explanation.target == ClassIndex(9)
    alone = real.explain(images[11], target=3)
    np.testing.assert_allclose(results[11].explanation.map, alone.explanation.map, rtol=1e-5, atol=1e-6)
    assert max(result.explanation.execution.batch_size for k, result in results.items() if k != 5) > 1


async def test_asyncio(address):
    async with whylight.AsyncClient(address) as client:
        explained = await client.explain(PIXELS, "grad-cam++", target=1)
        requests = [Request(PIXELS, "grad-cam++", target=1, id="good"), Request(PIXELS, model="other", id="bad")]
        async with aclosing(client.stream(requests)) as answers:
            by_id = {name: answer async for name, answer in answers}
        np.testing.assert_array_equal(by_id["good"].explanation.map, explained.explanation.map)
        assert by_id["bad"].reason == "MODEL_NOT_FOUND"
        with pytest.raises(DeadlineExceeded):
            await client.explain(PIXELS, deadline=1e-4)


def test_catalog(real, model):
    assert "grad-cam" in [method.name for method in real.methods()]
    assert real.method("grad-cam").options_schema["properties"]["layer"]["default"] == "last-spatial"
    described = real.model()
    assert (described.name, described.source, described.default) == ("small", SOURCE, True)
    assert described.digest == model.digest
    assert described.last_spatial_layer in [layer.name for layer in described.layers]
    assert described.input_size == (224, 224)
    assert {plugin.state for plugin in real.plugins() if plugin.name in ("cam", "gradients")} == {"active"}
    assert real.server_info().version == whylight.__version__


def run(arguments, capsys, monkeypatch):
    from whylight.cli import main

    monkeypatch.setattr(sys, "argv", ["whylight", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code, capsys.readouterr()


def test_command_line(address, capsys, monkeypatch, tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(png())
    out = tmp_path / "why.webp"
    at = ("--server", address)
    code, printed = run(("explain", picture, *at, "-o", out, "--boxes", "--json"), capsys, monkeypatch)
    assert code == 0, printed.err
    assert json.loads(printed.out)["results"][0]["explanations"][0]["artifacts"][0]["path"] == str(out)
    with Image.open(out) as drawn:
        assert (drawn.format, drawn.size) == ("WEBP", (224, 224))
    code, printed = run(("explain", picture, *at, "-O", "stride=2"), capsys, monkeypatch)
    assert code == 1
    assert "stride" in printed.err
    assert "OPTION_INVALID" in printed.err
    code, printed = run(("bench", picture, *at, "--calls", 8, "--concurrency", 4, "--json"), capsys, monkeypatch)
    assert code == 0, printed.err
    assert json.loads(printed.out)["succeeded"] == 8
