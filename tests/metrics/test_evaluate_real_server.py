"""Evaluate through the real server: what it answers is what is answered in process; catalog, refusals, deadlines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

import whylight
from whylight.cli import main
from whylight.errors import DeadlineExceeded, InvalidInput, NotFound
from whylight.models import Model, ModelConfig, open_model
from whylight.plugins import Plugins
from whylight.testing.server import running_server

SOURCE = "torchvision:resnet18"
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
METHODS = ["grad-cam", whylight.MethodCall("saliency")]
METRICS = [
    whylight.MetricCall("insertion", {"steps": 3}),
    whylight.MetricCall("road", {"percentages": [30]}, seed=4),
    whylight.MetricCall("randomisation"),
]


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    model = {"name": "small", "source": SOURCE, "weights": "random:0", "input_size": (64, 96)}
    with running_server(models=[model], worker={"devices": ["cpu"], "threads": 1}) as running:
        yield running.address


@pytest.fixture
def client(address: str) -> Iterator[whylight.Client]:
    with whylight.Client(address) as opened:
        opened.wait_ready(60)
        yield opened


@pytest.fixture(scope="module")
def model() -> Model:
    plugins = Plugins()
    plugins.load()
    config = ModelConfig(name="small", source=SOURCE, weights="random:0", input_size=(64, 96))
    return open_model(config, plugins.sources, "cpu")


def test_the_answer_is_that_of_whylight_evaluate(client: whylight.Client, model: Model) -> None:
    """To 1e-4: the server's worker has its own number of threads."""
    there = client.evaluate([png(), png()], METHODS, METRICS, target=[3, 5], seed=1)
    here = whylight.evaluate(model, [png()], METHODS, METRICS, target=[(3, 5)], seed=1)
    assert (there.model, there.model_digest) == ("small", model.digest)
    expected = here.results[0]
    assert isinstance(expected, whylight.Explained)
    for result in there.results:
        assert isinstance(result, whylight.Explained)
        assert len(result.explanations) == 4
        for found, wanted in zip(result.explanations, expected.explanations, strict=True):
            assert (found.method, found.target, found.artifacts) == (wanted.method, wanted.target, ())
            for one, other in zip(found.measurements, wanted.measurements, strict=True):
                assert one.value == pytest.approx(other.value, abs=1e-4)
                assert (one.metric, one.metric_version, one.options, one.seed, one.higher_is_better) == (
                    other.metric,
                    other.metric_version,
                    other.options,
                    other.seed,
                    other.higher_is_better,
                )
                assert (one.curve is None) == (other.curve is None)
    assert [ranking.metric for ranking in there.rankings] == ["insertion", "road", "randomisation", ""]
    for ranking, wanted in zip(there.rankings, here.rankings, strict=True):
        assert [one.method_index for one in ranking.methods] == [one.method_index for one in wanted.methods]


async def test_the_asynchronous_client_gets_the_same(address: str, client: whylight.Client) -> None:
    async with whylight.AsyncClient(address) as asynchronous:
        there = await asynchronous.evaluate(png(), METHODS, METRICS[:1])
        assert [metric.name for metric in await asynchronous.metrics()] == [metric.name for metric in client.metrics()]
    assert there.rankings == client.evaluate(png(), METHODS, METRICS[:1]).rankings


def test_a_bad_input_harms_no_other(client: whylight.Client) -> None:
    found = client.evaluate([b"no picture", png()], METHODS, METRICS[:1])
    assert isinstance(found.results[0], InvalidInput)
    assert found.results[0].violations[0].field == "inputs[0].image"
    assert isinstance(found.results[1], whylight.Explained)
    assert found.overall.methods


def test_artifacts_come_where_they_are_asked_for(client: whylight.Client) -> None:
    found = client.evaluate(png(), "grad-cam", METRICS[:1], outputs=[whylight.PictureOutput()])
    result = found.results[0]
    assert isinstance(result, whylight.Explained)
    assert result.explanation.picture.media_type == "image/png"


@pytest.mark.parametrize(
    ("metrics", "error", "field"),
    [
        ([], InvalidInput, "metrics"),
        ([""], InvalidInput, "metrics[0].name"),
        (["insertion", "insertoin"], NotFound, "metrics[1].name"),
        ([whylight.MetricCall("road", {"noise": -1})], InvalidInput, "metrics[0].options.noise"),
        (["pointing-game"], InvalidInput, "metrics[0].options.box"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(client: whylight.Client, metrics, error, field: str) -> None:
    with pytest.raises(error) as caught:
        client.evaluate(png(), METHODS, metrics)
    assert caught.value.violations[0].field == field


def test_a_deadline_ends_it(client: whylight.Client) -> None:
    costly = whylight.MetricCall("max-sensitivity", {"samples": 1000})
    with pytest.raises(DeadlineExceeded):
        client.evaluate(png(), "grad-cam", costly, deadline=0.5)
    assert client.evaluate(png(), "grad-cam", METRICS[:1]).rankings  # and the server goes on


def test_the_catalog_lists_metrics_with_their_schemas(client: whylight.Client) -> None:
    listed = {metric.name: metric for metric in client.metrics()}
    assert {"insertion", "deletion", "road", "pointing-game"} <= set(listed)
    assert listed["insertion"].higher_is_better
    assert not listed["deletion"].higher_is_better
    assert listed["road"].options_schema == {}
    assert "percentages" in client.metric("road").options_schema["properties"]
    assert "insertion" in next(plugin for plugin in client.plugins() if plugin.name == "metrics").metrics
    with pytest.raises(NotFound) as caught:
        client.metric("insertoin")
    assert caught.value.reason == "METRIC_NOT_FOUND"


def test_the_command_ranks_and_draws(address: str, tmp_path, capsys, monkeypatch) -> None:
    picture, out = tmp_path / "cat.png", tmp_path / "compared.png"
    picture.write_bytes(png())

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["whylight", "compare", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code, *capsys.readouterr())

    shared = ["--server", address, "-M", "grad-cam,saliency", "--metric", "insertion", "-O", "insertion.steps=3"]
    code, text, errors = run(str(picture), *shared, "-o", str(out))
    assert (code, errors) == (0, "")
    lines = text.splitlines()
    assert lines[0].split() == ["method", "insertion", "↑", "mean", "rank"]
    assert {line.split()[0] for line in lines[1:3]} == {"grad-cam", "saliency"}
    assert lines[1].count("*") == 2
    with Image.open(out) as sheet:
        assert sheet.width > 3 * 224
        colours = sheet.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 1000
    code, text, _ = run(str(picture), str(tmp_path / "absent.png"), *shared, "--json")
    assert code == 1
    code, text, _ = run(str(picture), *shared, "--json")
    assert code == 0
    told = json.loads(text)
    assert [ranking["metric"] for ranking in told["rankings"]] == ["insertion", ""]
    measured = told["results"][0]["explanations"][0]["measurements"][0]
    assert measured["options"]["steps"] == 3
    assert len(measured["curve"]["x"]) == 4
    code, _, errors = run(str(picture), *shared, "-O", "rise.masks=3")
    assert code == 2
    assert "rise is none of" in errors
