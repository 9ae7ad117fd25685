"""`whylight.evaluate`, in process: rankings, measurements beside explanations, and what goes wrong."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

import whylight
from whylight.evaluation import rank_methods
from whylight.explanation import Explanation, Measurement
from whylight.models import Model, Transform, wrap_module
from whylight.testing import conv_gap_net, fingerprint

SIZE = (32, 48)
METHODS = ["grad-cam", "saliency"]
QUICK = [
    whylight.MetricCall("insertion", {"steps": 4}),
    whylight.MetricCall("deletion", {"steps": 4}),
    whylight.MetricCall("road", {"percentages": [50]}, seed=3),
    whylight.MetricCall("average-drop"),
    whylight.MetricCall("average-increase"),
    whylight.MetricCall("pointing-game", {"box": [0.2, 0.2, 0.8, 0.8]}),
    whylight.MetricCall("max-sensitivity", {"samples": 2}),
    whylight.MetricCall("randomisation"),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return wrap_module(conv_gap_net(), transform=Transform.plain(SIZE, 3))


def images(count: int) -> list[torch.Tensor]:
    return list(torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0)))


def values(evaluation: whylight.Evaluation, place: int) -> list[list[float]]:
    explained = evaluation.results[place]
    assert isinstance(explained, whylight.Explained)
    return [[one.value for one in explanation.measurements] for explanation in explained.explanations]


def test_every_map_is_measured_by_every_metric(model: Model) -> None:
    found = whylight.evaluate(model, images(2), METHODS, QUICK, target=[(0, 1), (2,)])
    for explained, targets in zip(found.results, (2, 1), strict=True):
        assert isinstance(explained, whylight.Explained)
        assert [one.method for one in explained.explanations] == [name for name in METHODS for _ in range(targets)]
        for explanation in explained.explanations:
            assert [one.metric for one in explanation.measurements] == [call.name for call in QUICK]
            assert explanation.artifacts == ()
    assert [ranking.metric for ranking in found.rankings] == [*(call.name for call in QUICK), ""]
    assert all({one.method for one in ranking.methods} == set(METHODS) for ranking in found.rankings)


def test_an_image_gets_the_same_values_alone_and_in_a_batch(model: Model) -> None:
    """Bit for bit, with one seed for all."""
    together = whylight.evaluate(model, images(3), METHODS, QUICK, target=[(0, 1), (2,), (3,)], seed=5)
    for place, targets in enumerate([(0, 1), (2,), (3,)]):
        alone = whylight.evaluate(model, images(3)[place], METHODS, QUICK, target=list(targets), seed=5)
        assert values(alone, 0) == values(together, place)


def test_the_served_model_stays_as_it_was(model: Model) -> None:
    before = fingerprint(model.module)
    whylight.evaluate(model, images(1), METHODS, QUICK)
    assert fingerprint(model.module) == before


def test_seeds_are_told_and_give_the_same_again(model: Model) -> None:
    first = whylight.evaluate(model, images(1), METHODS, ["road", "insertion"])
    explained = first.results[0]
    assert isinstance(explained, whylight.Explained)
    road, insertion = explained.explanation.measurements
    assert road.seed is not None
    assert insertion.seed is None
    again = whylight.evaluate(model, images(1), METHODS, [whylight.MetricCall("road", seed=road.seed), "insertion"])
    assert values(first, 0) == values(again, 0)


def test_a_bad_image_harms_no_other(model: Model) -> None:
    found = whylight.evaluate(model, [images(1)[0], b"no picture"], METHODS, QUICK[:1])
    assert isinstance(found.results[0], whylight.Explained)
    assert isinstance(found.results[1], whylight.InvalidInput)
    assert found.results[1].violations[0].field == "images[1].image"
    with pytest.raises(whylight.InvalidInput):
        whylight.evaluate(model, [b"no picture"], METHODS, QUICK[:1])


@pytest.mark.parametrize(
    ("metric", "reason", "field"),
    [
        ("insertoin", "METRIC_NOT_FOUND", "metrics[0].name"),
        (whylight.MetricCall("insertion", {"steps": 0}), "OPTION_INVALID", "metrics[0].options.steps"),
        ("pointing-game", "OPTION_INVALID", "metrics[0].options.box"),
    ],
)
def test_what_is_wrong_with_a_metric_is_said_at_its_place(model: Model, metric, reason: str, field: str) -> None:
    with pytest.raises(whylight.WhylightError) as caught:
        whylight.evaluate(model, images(1), METHODS, metric)
    assert caught.value.reason == reason
    assert [violation.field for violation in caught.value.violations] == [field]


class Broken(whylight.Metric):
    """A metric that gives what it must not."""

    name = "broken"
    gives: ClassVar[object] = None

    def measure(self, subject, batch, maps, explain, options):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@pytest.mark.parametrize(
    "gives",
    [
        None,
        ValueError("secret"),
        whylight.Measured(torch.tensor([float("nan")])),
        whylight.Measured(torch.zeros(2)),
        whylight.Measured(torch.zeros(1), whylight.Curve(torch.zeros(3), torch.zeros(1, 2))),
    ],
)
def test_a_metric_that_is_at_fault_is_named_and_nothing_from_inside_it(model: Model, gives: object) -> None:
    broken = type("Broken", (Broken,), {"gives": gives, "__doc__": Broken.__doc__})
    with pytest.raises(whylight.WhylightError, match="'broken'") as caught:
        whylight.evaluate(model, images(1), METHODS[:1], broken)
    assert caught.value.reason == "METRIC_FAILED"
    assert "secret" not in caught.value.message


def explanation(method: str, *measured: tuple[float, bool]) -> Explanation:
    measurements = tuple(
        Measurement(f"metric{index}", "1", {}, value, higher) for index, (value, higher) in enumerate(measured)
    )
    return Explanation(method, "1", {}, whylight.ClassIndex(0), "", 0.0, 0.0, 0.0, (), measurements=measurements)


def test_ranks_are_means_over_targets_and_inputs_with_ties_shared() -> None:
    one = [
        explanation("a", (3, True), (3, False)),
        explanation("a", (3, True), (1, False)),
        explanation("b", (2, True), (2, False)),
        explanation("b", (3, True), (1, False)),
        explanation("c", (1, True), (1, False)),
        explanation("c", (0, True), (1, False)),
    ]
    first, second, overall = rank_methods([one], 3)
    assert [(ranked.method, ranked.mean_rank) for ranked in first.methods] == [("a", 1.25), ("b", 1.75), ("c", 3)]
    assert [ranked.mean_value for ranked in first.methods] == [3, 2.5, 0.5]
    assert [(ranked.method, ranked.mean_rank) for ranked in second.methods] == [("c", 1.5), ("b", 2), ("a", 2.5)]
    assert [(ranked.method, ranked.mean_rank) for ranked in overall.methods] == [
        ("a", 1.875),
        ("b", 1.875),
        ("c", 2.25),
    ]
    assert overall.metric == ""
    assert rank_methods([], 3) == ()


def test_cost_counts_reruns_of_the_method(model: Model) -> None:
    from whylight.explainer import Explainer
    from whylight.in_process import _plugins

    plugins = _plugins()
    explainer = Explainer({"m": model}, plugins.methods, plugins.metrics)
    plain = explainer.plan_methods("m", [("saliency", {})])
    measured = explainer.plan_methods(
        "m", [("saliency", {})], metrics=[("insertion", {"steps": 9}), ("max-sensitivity", {"samples": 3})]
    )
    assert measured.cost == plain.cost * 4 + 10
    assert measured.outputs == ()
