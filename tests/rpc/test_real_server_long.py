"""Synthesis and inspection through the real server, of methods that step only when the test lets them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import long_plugin
import numpy as np
import pytest

import whylight
from whylight.client import SynthesisFailure, SynthesisPreview, SynthesisProgress, SynthesisResult
from whylight.errors import DeadlineExceeded, InvalidInput, MethodFailed, Unavailable, Unsupported, WhylightError
from whylight.testing.server import RunningServer, running_server

MODEL = {"name": "resnet18", "source": "torchvision:resnet18", "weights": "random:0", "input_size": [32, 32]}
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[RunningServer]:
    long_plugin.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        plugins = {"only": ["long", "synthesis", "torchvision"]}
        with running_server(models=[MODEL], worker={"devices": ["cpu"], "threads": 1}, plugins=plugins) as running:
            yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("long")) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[whylight.Client]:
    with whylight.Client(server.address) as made:
        yield made


@dataclass
class Gate:
    """The test's ends of the pipes at which the plugin tells of its steps, and waits to be let on."""

    folder: str
    steps: int
    go: int

    def seen(self, count: int) -> str:
        """Wait for so many letters."""
        letters = ""
        while len(letters) < count:
            letters += os.read(self.steps, count - len(letters)).decode()
        return letters

    def let(self, count: int = 1) -> None:
        os.write(self.go, b"x" * count)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    ends = []
    for name in ("steps", "go"):
        os.mkfifo(tmp_path / name)
        ends.append(os.open(tmp_path / name, os.O_RDWR))
    yield Gate(str(tmp_path), *ends)
    for end in ends:
        os.close(end)


def pictures(results: list[Any]) -> list[bytes]:
    return [one.explanation.picture.data for one in results if isinstance(one, SynthesisResult)]


def make(client: whylight.Client, *targets: int, **rest: Any) -> list[SynthesisResult]:
    events = list(client.synthesize("brightening", list(targets), **{"seed": 1, **rest}))
    return [event for event in events if isinstance(event, SynthesisResult)]


def test_progress_and_previews_come_as_the_steps_are_made_and_results_last(client: whylight.Client, gate: Gate):
    events = client.synthesize(
        "brightening", [1, 2], options={"folder": gate.folder}, preview_interval=2, progress_interval=0.0, seed=3
    )
    told = []
    gate.let()
    for step in (1, 2, 3, 4):
        for _ in range(4 if step in (2, 4) else 2):
            told.append(next(events))
        gate.let()
    rest = list(events)
    progress = [(one.target_index, one.step, one.total_steps) for one in told if isinstance(one, SynthesisProgress)]
    assert sorted(progress) == [(target, step, 4) for target in (0, 1) for step in (1, 2, 3, 4)]
    assert [step for _, step, _ in progress] == [1, 1, 2, 2, 3, 3, 4, 4]
    shown = [(one.target_index, one.step) for one in told if isinstance(one, SynthesisPreview)]
    assert shown == [(0, 2), (1, 2), (0, 4), (1, 4)]
    assert [type(one) for one in rest] == [SynthesisResult, SynthesisResult]
    assert [one.target_index for one in rest] == [0, 1]
    # The last preview is the result, and the last loss is its check.
    last = {one.target_index: one for one in told if isinstance(one, SynthesisPreview) and one.step == 4}
    assert [last[n].picture.data for n in (0, 1)] == pictures(rest)
    for one in told:
        if isinstance(one, SynthesisProgress) and one.step == 4:
            assert one.losses["brightness"] == -rest[one.target_index].explanation.checks["mean"]
    why = rest[1].explanation
    assert (why.method, why.seed, why.execution.batch_size) == ("brightening", 3, 2)
    assert why.target == whylight.ClassIndex(2)
    assert len(rest[1].predictions) == 5
    assert rest[1].predictions[0].score >= why.target_score


def test_a_result_comes_as_soon_as_its_target_has_ended(client: whylight.Client, gate: Gate):
    events = client.synthesize("brightening", [1, 2], options={"folder": gate.folder, "memory": 1}, seed=3)
    told = []
    for _ in range(4):  # the steps of the first alone: two are too many for the memory
        gate.let()
    while not isinstance(told[-1] if told else None, SynthesisResult):
        told.append(next(events))
    assert {one.target_index for one in told if not isinstance(one, SynthesisProgress)} == {0}
    assert gate.seen(6) == "ssssZs"
    for _ in range(4):
        gate.let()
    rest = list(events)
    assert [one.target_index for one in rest if isinstance(one, SynthesisResult)] == [1]
    assert {one.target_index for one in rest} == {1}


def test_a_failure_waits_until_another_target_succeeds(client: whylight.Client):
    """For where all fail, the call fails, and nothing is told of any before."""
    options = {"fail_at": 2, "fail_class": 2}
    events = client.synthesize("brightening", [2, 1, 2], options=options, seed=1)
    ended = [one for one in events if not isinstance(one, SynthesisProgress)]
    assert [one.target_index for one in ended] == [0, 1, 2]
    assert [type(one) for one in ended] == [SynthesisFailure, SynthesisResult, SynthesisFailure]
    told = []
    events = client.synthesize("brightening", [2, 2], options=options, seed=1)
    with pytest.raises(MethodFailed):
        told.extend(events)
    assert {type(one) for one in told} <= {SynthesisProgress}  # of which none need come, so soon before the end


def test_a_batch_has_the_bits_of_its_singles_whatever_is_asked_of_them(client: whylight.Client):
    raw = [whylight.MapOutput("image"), whylight.PictureOutput("file")]
    together = make(client, 5, 300, 999, pictures=[PIXELS], outputs=raw, size=(24, 40))
    for target, one in zip((5, 300, 999), together, strict=True):
        (alone,) = make(client, target, pictures=[PIXELS], outputs=raw, size=(24, 40))
        assert one.explanation.map.shape == (3, 24, 40)
        assert one.explanation.map.tobytes() == alone.explanation.map.tobytes()
        assert one.explanation.checks == alone.explanation.checks
        assert one.explanation.target_score == alone.explanation.target_score
        assert (one.explanation.picture.width, one.explanation.picture.height) == (40, 24)
        assert np.array_equal(
            np.asarray(one.explanation.picture.image()),
            np.rint(one.explanation.map.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0),
        )


def test_an_attribution_is_answered_while_a_job_runs(client: whylight.Client, gate: Gate):
    """How soon, tests/worker/test_worker_long.py tells, where it is known when the batch is there."""
    events = client.synthesize("brightening", 1, options={"folder": gate.folder, "steps": 100_000})
    gate.let()
    next(events)
    gate.seen(2)
    answers: list[whylight.Explained] = []
    options = {"folder": gate.folder}
    explaining = threading.Thread(target=lambda: answers.append(client.explain(PIXELS, "quick", options=options)))
    explaining.start()
    letter = "s"
    while letter != "A":
        gate.let()
        letter = gate.seen(1)
    explaining.join()
    assert answers[0].explanation.method == "quick"
    events.close()
    gate.let(1)
    while gate.seen(1) != "Z":
        gate.let()


def test_closing_the_events_ends_the_work(client: whylight.Client, gate: Gate):
    events = client.synthesize("brightening", 1, options={"folder": gate.folder, "steps": 100_000})
    gate.let()
    next(events)
    assert gate.seen(2) == "ss"
    events.close()
    letters = ""
    while not letters.endswith("Z"):
        gate.let()
        letters += gate.seen(1)
    assert len(letters) < 90_000, "it was not stopped, but done"


def test_a_deadline_ends_the_work(client: whylight.Client, gate: Gate):
    with pytest.raises(DeadlineExceeded):
        list(client.synthesize("brightening", 1, options={"folder": gate.folder}, deadline=3))  # it has begun by then
    while gate.seen(1) != "Z":
        gate.let()


def test_memory_that_runs_out_halves_the_batch(client: whylight.Client):
    few = make(client, 1, 2, 3, 4, 5, options={"memory": 2})
    assert [one.explanation.execution.batch_size for one in few] == [2, 2, 1, 2, 2]
    assert pictures(few) == pictures(make(client, 1, 2, 3, 4, 5))


def test_a_method_that_raises_fails_only_the_guilty(client: whylight.Client):
    events = list(client.synthesize("brightening", [1, 2], options={"fail_at": 2, "fail_class": 2}, seed=1))
    result, failure = events[-2:]
    assert pictures([result]) == pictures(make(client, 1))
    assert (failure.target_index, failure.error.reason) == (1, "METHOD_FAILED")
    assert "secret" not in str(failure.error)
    with pytest.raises(MethodFailed, match="brightening"):
        make(client, 1, options={"fail_at": 1})


@pytest.mark.parametrize(
    ("keywords", "kind", "fields"),
    [
        ({}, InvalidInput, ["targets"]),
        ({"target": 5000}, InvalidInput, ["targets[0]"]),
        ({"target": whylight.Rank(0)}, InvalidInput, ["targets[0]"]),
        ({"target": 1, "pictures": [PIXELS, PIXELS]}, InvalidInput, ["inputs"]),
        ({"target": 1, "pictures": [b"no picture"]}, InvalidInput, ["inputs[0].image"]),
        ({"target": 1, "pictures": [np.zeros((3, 8, 8), np.float32)]}, InvalidInput, ["inputs[0].tensor.shape"]),
        ({"target": 1, "options": {"stepz": 1}}, InvalidInput, ["method.options.stepz"]),
        ({"target": 1, "size": (9000, 9000)}, InvalidInput, ["size"]),
        ({"target": 1, "outputs": [whylight.BoxesOutput()]}, InvalidInput, ["outputs[0]"]),
        ({"target": 1, "method": "quick"}, Unsupported, ["method.name"]),
        ({"target": 1, "method": "counting"}, Unsupported, ["method.name"]),
    ],
)
def test_a_bad_request_is_refused_with_its_fields(client: whylight.Client, keywords, kind, fields):
    with pytest.raises(kind) as refused:
        list(client.synthesize(**{"method": "brightening", **keywords}))
    assert [violation.field for violation in refused.value.violations] == fields


def test_a_synthesis_explains_nothing(client: whylight.Client):
    with pytest.raises(Unsupported) as refused:
        client.explain(PIXELS, "brightening")
    assert [violation.field for violation in refused.value.violations] == ["methods[0].name"]
    assert "Synthesize" in refused.value.message


def test_the_catalog_says_what_a_call_gives(client: whylight.Client):
    said = {method.name: (method.target_use, method.pictures) for method in client.methods()}
    assert said["brightening"] == ("required", ("start?",))
    assert said["activation-maximization"] == ("by-options", ("start?",))
    assert said["style-transfer"] == ("none", ("content", "style"))
    assert said["counting"] == ("optional", ("pictures*",))
    assert said["quick"] == ("optional", ("pictures+",))
    method = client.method("style-transfer")
    assert (method.target_use, method.pictures) == said["style-transfer"]


def test_a_target_where_none_is_taken_is_refused(client: whylight.Client):
    with pytest.raises(InvalidInput) as refused:
        list(client.synthesize("texture-synthesis", 1, pictures=[PIXELS]))
    assert [violation.field for violation in refused.value.violations] == ["targets"]
    with pytest.raises(InvalidInput) as refused:
        list(client.synthesize("activation-maximization", 1, options={"objective": "layer"}))
    assert [violation.field for violation in refused.value.violations] == ["targets"]
    *_, made = client.synthesize("activation-maximization", options={"objective": "layer", "steps": 1}, size=(16, 16))
    assert made.explanation.target is None


def test_an_inspection_is_served(client: whylight.Client):
    *news, result = client.inspect("counting", [PIXELS, PIXELS[::-1]], target=[3, 4], progress_interval=0.0)
    steps = [(one.step, one.total_steps) for one in news]  # what is newer takes the place of what was not read yet
    assert steps == sorted(steps)
    assert set(steps) <= {(1, 3), (2, 3), (3, 3)}
    means, table, points = result.explanation.artifacts
    assert means.array.shape == (2,)
    assert table.rows == ((0.0, "picture"), (1.0, "picture"))
    assert points.points == (whylight.Point(1.0, 2.0, "a"),)
    assert result.explanation.checks == {"targets": 2.0}
    assert result.explanation.target is None
    with pytest.raises(MethodFailed):
        list(client.inspect("counting", options={"fail": True}))
    with pytest.raises(WhylightError) as refused:
        list(client.inspect("counting", target=[0, 5000]))
    assert [violation.field for violation in refused.value.violations] == ["targets[1]"]


async def test_the_asyncio_client_gets_the_same(server: RunningServer, client: whylight.Client):
    async with whylight.AsyncClient(server.address) as asynchronous:
        events = [event async for event in asynchronous.synthesize("brightening", [1, 2], seed=1)]
        assert pictures(events) == pictures(make(client, 1, 2))
        found = [event async for event in asynchronous.inspect("counting", PIXELS)]
        assert found[-1].explanation.method == "counting"


def test_activation_maximization_is_served(client: whylight.Client):
    options = {"steps": 3, "jitter": 2}
    *_, first = client.synthesize("activation-maximization", 1, options=options, seed=5)
    *_, again = client.synthesize("activation-maximization", [2, 1], options=options, seed=5)
    assert pictures([first]) == pictures([again])
    assert first.explanation.picture.image().getextrema() != ((0, 0), (0, 0), (0, 0))


def test_a_worker_that_dies_takes_its_jobs_with_it_and_comes_back(client: whylight.Client):
    with pytest.raises(Unavailable) as lost:
        make(client, 1, options={"fail_at": 1, "how": "die"})
    assert lost.value.reason == "WORKER_LOST"
    client.wait_ready()
    assert len(make(client, 1)) == 1
