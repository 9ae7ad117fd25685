"""Every method, served: batches of 1 and 32, wide inputs, mixed targets; bfloat16, frozen and compiled models.

What cannot be is listed in `REFUSED` with its reason. All of it through one real server, over the wire.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # every_method, for this process and for the worker

from every_method import CHEAP, SIZE, every_method

import whylight
from whylight.client import Client, Input
from whylight.method import Need
from whylight.target import ClassIndex, ClassLabel, OutputIndex, Rank
from whylight.testing.server import running_server

METHODS = sorted(every_method())
MAP = [whylight.MapOutput()]
COUNT = 32

REFUSED = {
    "convolutional": dict.fromkeys(("attention-rollout", "cam", "chefer"), "METHOD_UNSUPPORTED"),
    "transformer": dict.fromkeys(("cam", "deconvnet", "guided-backprop", "guided-grad-cam"), "METHOD_UNSUPPORTED"),
}
"""Methods that a network cannot have: no attention or no average pooling in the one, no ReLU in the other."""

CLASSES_ONLY = {"finer-cam": "TARGET_UNSUPPORTED"}
"""Methods that compare classes, and so explain no element of the output by its place."""

AGREEMENT = {"narrow": 0.97, "half": 0.97}
"""Spearman's rank correlation of maps of bfloat16 models with those in float32 at least, in the mean over inputs.

`narrow` runs in bfloat16 by the server's setting, `half` has its parameters in it. Measured: 0.990 to 1.
"""


def served(name, factory, **more):
    return {"name": name, "source": f"python:every_method:{factory}", **more}


@pytest.fixture(scope="module")
def client():
    models = [
        served("trainable", "trainable"),
        served("frozen", "frozen"),
        served("narrow", "trainable", precision="bfloat16"),
        served("half", "half"),
        served("compiled", "compiled", compile=True),  # the last of its kind: its factory sets the compiler
        served("convolutional", "convolutional"),
        served("transformer", "transformer"),
    ]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    try:
        with (
            running_server(
                models=models,
                worker={"devices": ["cpu"], "threads": 1},
                batching={"max_batch": COUNT, "max_batch_cost": 1e5},
                queue={"cost": 1e6},
            ) as server,
            Client(server.address) as client,
        ):
            yield client
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def inputs():
    source = torch.Generator().manual_seed(21)
    coarse = torch.randn(COUNT, 3, 8, 12, generator=source)
    return list(torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").numpy())


def targets(name):
    """Indices, ranks, labels, output indices and the top prediction, in turns; each input has its own."""
    element = ClassIndex(0) if name in CLASSES_ONLY else OutputIndex((0,))
    turns = [ClassIndex(2), Rank(1), ClassLabel("elk"), element, None, ClassIndex(3)]
    return [turns[row % len(turns)] for row in range(COUNT)]


def ask(client, model, name, rows):
    """Return the explanations of some rows of the inputs, by one call of the server."""
    listed, wanted = inputs(), targets(name)
    answers = client.explain(
        [Input(listed[row], wanted[row]) for row in rows],
        name,
        model=model,
        options=CHEAP.get(name, {}),
        outputs=MAP,
        seed=7,
        top_predictions=0,
        raise_errors=True,
    )
    return [answer.explanation for answer in answers]


def rank_correlation(one, other):
    """Return Spearman's rank correlation of two maps; ties share their mean rank."""
    order = [np.unique(values, return_inverse=True, return_counts=True)[1:] for values in (one, other)]
    shared = [(counts.cumsum() - (counts - 1) / 2)[inverse.ravel()] for inverse, counts in order]
    return float(np.corrcoef(shared)[0, 1])


@pytest.mark.parametrize("name", METHODS)
def test_alone_and_among_32(client, name):
    """Wide maps in float32, one for each target, the same bits alone, and again from frozen parameters."""
    together = ask(client, "trainable", name, range(COUNT))
    assert {why.execution.batch_size for why in together} == {COUNT}
    maps = [why.map for why in together]
    assert {(each.dtype, each.ndim) for each in maps} == {(np.dtype("float32"), 2)}
    assert all(each.shape[0] * SIZE[1] == each.shape[1] * SIZE[0] for each in maps)
    assert all(np.isfinite(each).all() for each in maps)
    assert any(each.max() > each.min() for each in maps)
    for row in (0, 1, 4):
        (alone,) = ask(client, "trainable", name, [row])
        assert alone.execution.batch_size == 1
        assert alone.target == together[row].target
        assert np.array_equal(alone.map, maps[row])
        assert alone.checks == together[row].checks
    for why, expected in zip(ask(client, "frozen", name, range(6)), together, strict=False):
        assert np.array_equal(why.map, expected.map)


@pytest.mark.parametrize("model", AGREEMENT)
@pytest.mark.parametrize("name", METHODS)
def test_models_in_bfloat16(client, name, model):
    """The maps are float32 all the same, and rank the places as those of the float32 model do."""
    expected = [why.map for why in ask(client, "trainable", name, range(6))]
    given = [why.map for why in ask(client, model, name, range(6))]
    assert {each.dtype for each in given} == {np.dtype("float32")}
    told = [
        rank_correlation(one, other) for one, other in zip(given, expected, strict=True) if other.max() > other.min()
    ]
    print(f"{name} {model}: rank correlation {min(told):.3f} to {max(told):.3f}, mean {np.mean(told):.3f}")
    assert np.mean(told) >= AGREEMENT[model]


@pytest.mark.parametrize("name", METHODS)
def test_compiled_models(client, name):
    expected = ask(client, "trainable", name, range(6))
    for why, plain in zip(ask(client, "compiled", name, range(6)), expected, strict=True):
        np.testing.assert_allclose(why.map, plain.map, rtol=1e-3, atol=1e-4 * max(1e-3, np.abs(plain.map).max()))


@pytest.mark.parametrize("model", REFUSED)
@pytest.mark.parametrize("name", METHODS)
def test_what_a_network_cannot_have_is_refused_with_the_reason(client, name, model):
    reason = REFUSED[model].get(name)
    if reason is None:
        (why,) = ask(client, model, name, [0])
        assert np.isfinite(why.map).all()
        return
    with pytest.raises(whylight.Unsupported) as caught:
        ask(client, model, name, [0])
    assert caught.value.reason == reason
    lacking = every_method()[name].needs & {Need.ATTENTION, Need.GAP_HEAD, Need.RELU}
    assert any(need.value in caught.value.message for need in lacking)


@pytest.mark.parametrize("name", CLASSES_ONLY)
def test_what_compares_classes_explains_nothing_else(client, name):
    with pytest.raises(whylight.Unsupported, match="OutputIndex") as caught:
        client.explain(Input(inputs()[0], OutputIndex((0,))), name, model="trainable")
    assert caught.value.reason == CLASSES_ONLY[name]
