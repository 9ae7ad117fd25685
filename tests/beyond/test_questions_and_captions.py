"""What else a model takes decides what is explained: a question about one half, and each word of a caption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import beyond_models as nets
import numpy as np
import pytest
import torch
from PIL import Image

import whylight
from whylight.client import Input
from whylight.client.catalog import CompanionInfo
from whylight.errors import InvalidInput

MAP = [whylight.MapOutput()]
COUNT = 24


def share_of_right(explained) -> float:
    """The share of a map's mass that lies on the right half."""
    found = np.abs(explained.explanation.map)
    return float(found[:, found.shape[1] // 2 :].sum() / found.sum())


@pytest.fixture(scope="module")
def held_out():
    return nets.pairs(COUNT, held_out=True, seed=5)


def question(side: int) -> np.ndarray:
    return nets.questions(np.array([side]))[0].numpy()


def prefix(digits) -> list[int]:
    return [nets.START, *map(int, digits)]


@pytest.mark.parametrize(("method", "least"), [("grad-cam", 0.65), ("layer-cam", 0.9), ("saliency", 0.85)])
def test_a_question_about_one_half_is_answered_by_that_half(answerer, held_out, method, least):
    images, digits = held_out
    right = []
    for side in range(2):
        beside = {"question": question(side)}
        answers = whylight.explain(answerer, list(images), method, companions=beside, outputs=MAP)
        correct = [answer for n, answer in enumerate(answers) if answer.predictions[0].class_index == digits[n, side]]
        assert len(correct) >= 0.8 * COUNT
        right.append(np.mean([share_of_right(answer) for answer in correct]))
    assert 1 - right[0] >= least
    assert right[1] >= least


@pytest.mark.parametrize(("method", "least"), [("layer-cam", 0.9), ("hires-cam", 0.95), ("saliency", 0.75)])
def test_each_word_of_a_caption_points_at_its_digit(captioner, held_out, method, least):
    """Methods that keep each place's own gradient do; grad-cam, which takes their mean, cannot.

    The decoder reads one place by attention, so that the gradient is there alone: its mean weighs the channels alike
    for both digits, and 56 % of the map lies on the right one.
    """
    images, digits = held_out
    beside = [{"prefix": prefix(pair)} for pair in digits]
    for place in range(2):
        targets = [whylight.OutputIndex((place, int(pair[place]))) for pair in digits]
        answers = whylight.explain(captioner, list(images), method, targets, companions=beside, outputs=MAP)
        assert [answer.explanation.target_label for answer in answers] == [str(pair[place]) for pair in digits]
        right = np.mean([share_of_right(answer) for answer in answers])
        assert (right if place else 1 - right) >= least


def test_served_as_in_process_whatever_shares_the_batch(client, answerer, captioner, held_out):
    images, digits = held_out
    asked = [Input(image, companions={"question": question(n % 2)}) for n, image in enumerate(images[:8])]
    there = client.explain(asked, "grad-cam", model="answerer", outputs=MAP)
    for n, answer in enumerate(there):
        here = whylight.explain(answerer, images[n], "grad-cam", companions={"question": question(n % 2)}, outputs=MAP)
        assert np.array_equal(answer.explanation.map, here.explanation.map)
        assert answer.predictions == here.predictions
    # Prefixes of different lengths cannot share a batch, and do share a call.
    mixed = [
        Input(images[n], whylight.OutputIndex((n % 2, int(digits[n, n % 2]))), {"prefix": said})
        for n, said in enumerate(prefix(digits[n])[: 2 + n % 2] for n in range(6))
    ]
    for n, answer in enumerate(client.explain(mixed, "saliency", model="captioner", outputs=MAP)):
        here = whylight.explain(
            captioner, images[n], "saliency", mixed[n].target, companions=mixed[n].companions, outputs=MAP
        )
        assert np.array_equal(answer.explanation.map, here.explanation.map)


def test_a_method_that_alters_copies_asks_each_row_its_own_question(answerer, held_out):
    images, _ = held_out
    beside = [{"question": question(side)} for side in (0, 1, 1)]
    options = {"window": [8, 8], "stride": [8, 8]}
    together = whylight.explain(
        answerer, list(images[:3]), "occlusion", 3, companions=beside, outputs=MAP, options=options
    )
    for n, answer in enumerate(together):
        alone = whylight.explain(
            answerer, images[n], "occlusion", 3, companions=beside[n], outputs=MAP, options=options
        )
        assert np.array_equal(answer.explanation.map, alone.explanation.map)
    other = whylight.explain(answerer, images[0], "occlusion", 3, companions=beside[1], outputs=MAP, options=options)
    assert not np.array_equal(other.explanation.map, together[0].explanation.map)


@pytest.mark.parametrize(
    ("companions", "reason", "field"),
    [
        ({}, "COMPANION_MISSING", "companions[question]"),
        ({"question": question(0), "mood": [1]}, "COMPANION_UNKNOWN", "companions[mood]"),
        ({"question": question(0)[:5]}, "TENSOR_INVALID", "companions[question].shape"),
        ({"question": question(0).astype(np.float32)}, "TENSOR_INVALID", "companions[question].dtype"),
        ({"question": np.full(7, 8)}, "TENSOR_INVALID", "companions[question].data"),
        ({"question": np.full(7, -1)}, "TENSOR_INVALID", "companions[question].data"),
    ],
)
def test_companions_that_do_not_fit_are_refused_in_their_place(client, answerer, held_out, companions, reason, field):
    images, _ = held_out
    with pytest.raises(InvalidInput) as caught:
        whylight.explain(answerer, images[0], companions=companions)
    assert (caught.value.reason, caught.value.violations[0].field) == (reason, f"images.{field}")
    good = Input(images[0], companions={"question": question(0)})
    whole, refused = client.explain([good, Input(images[1], companions=companions)], model="answerer")
    assert isinstance(whole, whylight.Explained)
    assert isinstance(refused, InvalidInput)
    assert (refused.reason, refused.violations[0].field) == (reason, f"inputs[1].{field}")


def test_a_model_of_pictures_alone_takes_no_companions(client):
    pixels = np.zeros((64, 64, 3), np.uint8)
    (refused,) = client.explain([Input(pixels, companions={"question": [1]})], model="encoder")
    assert (refused.reason, refused.violations[0].field) == ("COMPANION_UNKNOWN", "inputs[0].companions[question]")


def test_a_word_beyond_the_prefix_is_refused(captioner, held_out):
    images, digits = held_out
    with pytest.raises(InvalidInput) as caught:
        whylight.explain(
            captioner, images[0], "saliency", whylight.OutputIndex((2, 1)), companions={"prefix": prefix(digits[0])[:2]}
        )
    assert caught.value.reason == "TARGET_INVALID"
    longer = {"prefix": [*prefix(digits[0]), 1, 2]}
    whylight.explain(captioner, images[0], "saliency", whylight.OutputIndex((4, 1)), companions=longer)


def test_the_catalog_tells_what_is_needed(client):
    (question_wanted,) = client.model("answerer").companions.items()
    assert question_wanted == ("question", CompanionInfo("int64", (7,), 0, 7))
    (prefix_wanted,) = client.model("captioner").companions.values()
    assert prefix_wanted.shape == (-1,)


def test_bf16_and_compiled_models_take_companions(answerer, trained, held_out):
    from whylight.models import ModelConfig, open_model
    from whylight.models.source import PythonSource

    images, _ = held_out
    wide = answerer.subject().forward(nets.inputs_of(images), {"question": nets.questions(np.zeros(COUNT, int))})
    config = ModelConfig(
        name="narrow",
        source="python:beyond_models:answerer",
        weights=str(trained["answerer"]),
        precision="bfloat16",
    )
    narrow = open_model(config, {"python": PythonSource})
    scores = narrow.subject().forward(nets.inputs_of(images), {"question": nets.questions(np.zeros(COUNT, int))})
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, wide, rtol=0.1, atol=0.5)
    assert (scores.argmax(1) == wide.argmax(1)).float().mean() >= 0.9


def test_the_command_line_asks_here_and_there(server, held_out, tmp_path):
    images, _ = held_out
    Image.fromarray(images[0]).save(tmp_path / "digits.png")
    environment = os.environ | {"PYTHONPATH": str(Path(nets.__file__).parent)}
    asked = ["explain", "digits.png", "-M", "saliency", "--companion", f"question={question(1).tolist()}", "--json"]

    def answer(*further: str) -> dict:
        command = [sys.executable, "-m", "whylight", *asked, *further]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (found,) = json.loads(done.stdout)["results"]
        return found

    there = answer("-m", "answerer", "--server", server.address, "-t", "contrast:3/5")
    assert there["explanations"][0]["target_label"] == "3 rather than 5"
    here = answer("-m", "python:beyond_models:answerer")
    assert len(here["predictions"]) == 5
