"""Progress: told to those who watch an input, in its own words, not too often, and never to the result's harm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import whylight
from whylight import ClassIndex
from whylight.errors import MethodFailed
from whylight.explainer import Explainer, Progress, Watcher
from whylight.explanation import Explained
from whylight.method import Batch
from whylight.plugins import OfferedMethod
from whylight.subject import CancelToken

PIXELS = [np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8) for seed in range(3)]


class Reporting(whylight.Attribution):
    """Says what it is told to say; its maps are the sums of its inputs."""

    def __init__(self, name: str = "reporting", reports=lambda maps: [(1, 2, None), (2, 2, None)]) -> None:
        self.name = name  # type: ignore[misc]
        self.reports = reports

    def attribute(self, subject, batch, options):
        maps = batch.inputs.sum(1)[list(batch.rows)]
        for done, total, running in self.reports(maps):
            batch.report(done, total, running)
        return maps


class Log:
    """A watcher that keeps what it is told."""

    def __init__(self, **settings) -> None:
        self.news: list[Progress] = []
        self.watcher = Watcher(self.news.append, **settings)

    @property
    def said(self) -> list[tuple[int, int, int]]:
        return [(news.method, news.done, news.total) for news in self.news]


@pytest.fixture
def run(model):
    """Explain with some methods, watched by some logs; None watches nothing."""

    def explain(logs, *methods, targets=None, count=3):
        explainer = Explainer({"looking": model}, {one.name: OfferedMethod(one, "test", "test 1") for one in methods})
        plan = explainer.plan_methods("looking", [(one.name, {}) for one in methods])
        decoded = [explainer.decode(plan, pixels) for pixels in PIXELS[:count]]
        seeds = [(0,) * len(methods)] * count
        watchers = [log and log.watcher for log in logs]
        return explainer.explain(
            plan, decoded, targets or [()] * count, seeds, [CancelToken() for _ in decoded], watchers
        )

    return explain


def test_without_anyone_to_tell_a_report_goes_nowhere():
    Batch(torch.zeros(1, 3, 2, 2), (ClassIndex(0),), (0,), CancelToken()).report(1, 2, torch.zeros(1, 2, 2))


def test_each_input_has_its_own_watcher_and_every_method_its_index(run):
    first, third = Log(), Log()
    run([first, None, third], Reporting("a"), Reporting("b", lambda maps: [(5, 5, maps)]))
    assert first.said == third.said == [(0, 1, 2), (0, 2, 2), (1, 5, 5)]
    assert all(news.maps is None for news in first.news)


def test_running_maps_are_those_of_the_inputs_targets_as_they_were(run):
    def reports(maps):
        running = maps * 0.5
        yield 1, 2, running
        running.zero_()
        yield 2, 2, maps.double()

    log, other = Log(running_maps=True), Log()
    targets = [(ClassIndex(0),), (ClassIndex(0), ClassIndex(1)), (ClassIndex(2),)]
    results = run([other, log, None], Reporting(reports=reports), targets=targets)
    half, whole = log.news
    final = np.stack([why.map for why in results[1].explanations])
    assert half.maps.dtype is whole.maps.dtype is torch.float32
    assert np.array_equal(half.maps.numpy(), final * 0.5)
    assert np.array_equal(whole.maps.numpy(), final)
    assert [news.maps for news in other.news] == [None, None]


def test_it_is_told_at_the_beginning_at_the_end_and_not_too_often_in_between(run):
    now = iter([0.0, 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    log = Log(min_interval=0.5, clock=lambda: next(now))
    steps = Reporting(reports=lambda maps: [(done, 5, None) for done in range(1, 6)])
    run([log], steps, count=1)
    assert log.said == [(0, 1, 5), (0, 4, 5), (0, 5, 5)]
    everything = Log(min_interval=0.0, clock=lambda: 0.0)
    run([everything], steps, count=1)
    assert len(everything.news) == 5


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(
    "report",
    [
        lambda maps: (3, 2, None),
        lambda maps: (-1, 2, None),
        lambda maps: (0, 0, None),
        lambda maps: (1, 2, maps[:-1]),
        lambda maps: (1, 2, maps[0]),
        lambda maps: (1, 2, maps.int()),
        lambda maps: (1, 2, maps.numpy()),
    ],
)
def test_a_report_that_makes_no_sense_is_the_methods_fault_whoever_watches(run, report, watched):
    results = run([Log(running_maps=True) if watched else None] * 2, Reporting(reports=lambda m: [report(m)]), count=2)
    assert all(isinstance(result, MethodFailed) for result in results)
    assert "reported" in results[0].message


def test_when_memory_runs_out_it_begins_again_and_shows_no_part_of_the_targets(run):
    def poor(maps):
        yield 1, 2, maps
        if len(maps) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield 2, 2, maps

    log = Log(running_maps=True)
    (result,) = run([log], Reporting(reports=poor), targets=[(ClassIndex(0), ClassIndex(1))], count=1)
    assert isinstance(result, Explained)
    assert log.said[-1] == (0, 2, 2)
    assert [news.maps is None for news in log.news[1:]] == [True] * (len(log.news) - 1)
    assert log.news[0].maps.shape == (2, 32, 32)


def test_watched_or_not_the_bits_are_the_same(run):
    reporting = Reporting(reports=lambda maps: [(1, 1, maps)])
    watched = run([Log(running_maps=True, min_interval=0.0)] * 3, reporting)
    alone = run([None] * 3, reporting)
    assert [one.explanation.map.tobytes() for one in watched] == [one.explanation.map.tobytes() for one in alone]


def test_in_process_the_caller_is_told(model):
    news: list[whylight.client.Progress] = []
    reporting = Reporting(reports=lambda maps: [(1, 1, maps)])
    explained = whylight.explain(
        model, PIXELS[:2], [reporting, "saliency"], outputs=[], on_progress=news.append, running_maps=True
    )
    assert [(one.input_index, one.method, one.method_index, one.done, one.total) for one in news] == [
        (index, "reporting", 0, 1, 1) for index in range(2)
    ]
    assert np.array_equal(news[1].maps[0], explained[1].explanation.map)
