"""Synthesis and inspection in process and step by step: the same bits alone, in batches, and when others go away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import whylight
from whylight.errors import Cancelled, InvalidInput, MethodFailed, WhylightError
from whylight.explainer.long_inputs import check_aims
from whylight.explainer.long_plan import LongPlan, Wanted, plan_synthesis
from whylight.explainer.slices import Outcome
from whylight.explainer.step_watcher import StepWatcher
from whylight.explainer.synthesising import Order, synthesise
from whylight.limits import Limits
from whylight.models import Transform, wrap_module
from whylight.models.companion import Companion
from whylight.plugins import OfferedMethod
from whylight.subject import CancelToken
from whylight.testing.networks import ConvGapNet


class Climbing(whylight.Synthesis):
    """Climbs a class score by plain gradients."""

    name = "climbing"
    stochastic = True
    needs = frozenset({whylight.Need.GRADIENTS})

    class Options(whylight.PlainOptions):
        steps: int = 3
        result: str = "right"
        pauses: int = 0

    closed = 0

    def synthesise(self, subject: Any, task: whylight.SynthesisTask, options: Any) -> Iterator[Any]:
        aims = [subject.aim(target) for target in task.targets]
        images = torch.stack([torch.rand((3, *task.size), generator=g) for g in task.generators()])
        try:
            for step in range(1, options.steps + 1):
                leaf = images.requires_grad_(True)
                output = subject.observe(subject.inputs_of(leaf)).output
                scores = torch.stack([aim.scalar(row) for aim, row in zip(aims, output, strict=True)])
                for _ in range(options.pauses):
                    yield whylight.Pause()
                (gradient,) = torch.autograd.grad(scores.sum(), leaf)
                images = (leaf + 0.1 * gradient.sign()).clamp(0, 1).detach()
                yield whylight.Progress(step, options.steps, {"score": scores.detach()}, images)
        finally:
            type(self).closed += 1
        if options.result == "none":
            return
        made = images[:, :, 1:] if options.result == "small" else images
        yield whylight.Synthesised(made * float("nan") if options.result == "nan" else made)


@pytest.fixture(scope="module")
def net() -> ConvGapNet:
    torch.manual_seed(0)
    return ConvGapNet()


def planned(net: ConvGapNet, **options: Any) -> LongPlan:
    model = wrap_module(net, transform=Transform.plain((16, 24)))
    offered = OfferedMethod(Climbing(), plugin="", distribution="")
    wanted = Wanted(targeted=True, outputs=(whylight.MapOutput(),))
    return plan_synthesis({"m": model}, {"climbing": offered}, "m", "climbing", options, wanted, Limits())


def orders(*classes: int) -> list[Order]:
    none = np.zeros((0, 3, 16, 24), np.float32)
    return [Order(whylight.ClassIndex(n), none, seed=n, cancel=CancelToken()) for n in classes]


def finish(slices: Any, outcomes: dict[int, Outcome]) -> list[Any]:
    for ended in slices:
        outcomes.update(ended)
    return [outcomes[place] for place in sorted(outcomes)]


def bits(outcome: Any) -> bytes:
    return bytes(outcome.explanation.map.tobytes())


def test_a_batch_has_the_bits_of_its_singles(net: ConvGapNet):
    plan = planned(net)
    together = finish(synthesise(plan, orders(0, 1, 2)), {})
    alone = [finish(synthesise(plan, orders(n)), {})[0] for n in (0, 1, 2)]
    assert list(map(bits, together)) == list(map(bits, alone))
    assert [one.explanation.target_score for one in together] == [one.explanation.target_score for one in alone]
    assert len(set(map(bits, together))) == 3


def test_pauses_are_steps_for_the_server_and_none_for_the_caller(net: ConvGapNet):
    told: list[int] = []
    watcher = StepWatcher(lambda step, total, losses: told.append(step), min_interval=0.0)
    (plain,) = finish(synthesise(planned(net), orders(1)), {})
    (order,) = orders(1)
    steps = list(synthesise(planned(net, pauses=2), [replace(order, watcher=watcher)]))
    assert [len(ended) for ended in steps] == [0] * 9 + [1]  # three steps, each in three parts
    assert told == [1, 2, 3]
    assert bits(steps[-1][0][1]) == bits(plain)
    slices = synthesise(planned(net, pauses=2), [order])
    next(slices)
    order.cancel.cancel()
    ((_, outcome),) = next(slices)
    assert isinstance(outcome, Cancelled), "it went on behind a pause"


def test_large_pictures_are_made_a_few_at_a_time_with_the_same_bits(net: ConvGapNet, monkeypatch: pytest.MonkeyPatch):
    plan = planned(net)
    together = finish(synthesise(plan, orders(0, 1, 2)), {})
    monkeypatch.setattr("whylight.explainer.synthesising.PIXELS_TOGETHER", 2 * 16 * 24)
    parted = finish(synthesise(plan, orders(0, 1, 2)), {})
    assert [one.explanation.execution.batch_size for one in parted] == [2, 2, 1]
    assert list(map(bits, parted)) == list(map(bits, together))
    monkeypatch.setattr("whylight.explainer.synthesising.PIXELS_TOGETHER", 1)
    assert len(finish(synthesise(plan, orders(0, 1)), {})) == 2
    assert finish(synthesise(plan, []), {}) == []


class Choosy(Climbing):
    """Climbs a class, or nothing."""

    name = "choosy"

    class Options(whylight.PlainOptions):
        steps: int = 1
        of: str = "class"

    def takes_target(self, options: Any) -> bool:
        if options.of == "broken":
            raise RuntimeError("a secret of the plugin's")
        return bool(options.of == "class")


class Still(Choosy):
    """Takes no target, whatever is asked."""

    name = "still"
    wants_target = False
    takes_target = whylight.Synthesis.takes_target


def test_a_target_is_taken_where_the_options_say_so(net: ConvGapNet):
    def planned_with(method: whylight.Synthesis, targeted: bool, **options: Any) -> LongPlan:
        model = wrap_module(net, transform=Transform.plain((16, 24)))
        offered = {"x": OfferedMethod(method, plugin="", distribution="")}
        return plan_synthesis({"m": model}, offered, "m", "x", options, Wanted(targeted=targeted), Limits())

    def refusal(method: whylight.Synthesis, targeted: bool, **options: Any) -> str:
        with pytest.raises(InvalidInput) as refused:
            planned_with(method, targeted, **options)
        assert (refused.value.reason, refused.value.violations[0].field) == ("REQUEST_INVALID", "targets")
        return refused.value.message

    choosy, still, climbing = Choosy(), Still(), Climbing()
    assert planned_with(choosy, True).targeted
    assert not planned_with(choosy, False, of="nothing").targeted
    assert "with these options" in refusal(choosy, False)
    assert "takes no target with these options" in refusal(choosy, True, of="nothing")
    assert "takes no target;" in refusal(still, True)
    assert "name one" in refusal(climbing, False)
    with pytest.raises(MethodFailed):
        planned_with(choosy, True, of="broken")
    uses = [method.target_use() for method in (climbing, still, choosy)]
    assert uses == [whylight.TargetUse.REQUIRED, whylight.TargetUse.NONE, whylight.TargetUse.BY_OPTIONS]


def test_a_layer_is_maximised_without_a_target(net: ConvGapNet):
    options = {"objective": "layer", "steps": 2}
    result = whylight.synthesise(net, "activation-maximization", options=options, seed=1, size=(16, 16))
    assert (result.explanation.target, result.explanation.checks.keys()) == (None, {"excitation_loss"})
    for target, chosen in ((1, options), (None, {"steps": 2}), (None, {**options, "stop_at": 0.5})):
        with pytest.raises(InvalidInput) as refused:
            whylight.synthesise(net, "activation-maximization", target, options=chosen, size=(16, 16))
        assert refused.value.violations[0].field == "target"
    with pytest.raises(InvalidInput) as refused:
        whylight.synthesise(net, "activation-maximization", [1, None], options={"steps": 2})
    assert refused.value.violations[0].field == "target[1]"


def test_an_inspection_says_what_it_takes(net: ConvGapNet):
    picture = np.zeros((32, 32, 3), np.uint8)
    for arguments, field, what in (
        (("layers", picture), "pictures", "takes no pictures; there are 1"),
        (("activations",), "pictures", "takes picture; there are 0"),
        (("activations", [picture, picture]), "pictures", "takes picture; there are 2"),
        (("predictions",), "pictures", "takes pictures (one or more); there are 0"),
        (("layers", (), 3), "target", "takes no target"),
    ):
        with pytest.raises(InvalidInput, match=re.escape(what)) as refused:
            whylight.inspect(net, *arguments)
        assert refused.value.violations[0].field == field


def test_data_sets_are_named_in_process_too(net: ConvGapNet, tmp_path: Path):
    for number in range(3):
        Image.new("RGB", (40, 40), (80 * number, 40, 90)).save(tmp_path / f"{number}.png")
    options = {"data_set": "mine", "count": 2}
    found = whylight.inspect(net, "top-patches", options=options, data_sets={"mine": tmp_path})
    assert {artifact.name for artifact in found.artifacts} == {"patches", "patch-0", "patch-1", "table"}
    cached = whylight.DataSets({"mine": tmp_path}, tmp_path / "cache")
    again = whylight.inspect(net, "top-patches", options=options, data_sets=cached)
    assert found.artifacts == again.artifacts
    assert any((tmp_path / "cache").rglob("*.npz"))
    with pytest.raises(whylight.NotFound, match="mine"):
        whylight.inspect(net, "top-patches", options=options, data_sets={"mined": tmp_path})


def test_artifacts_that_are_too_large_are_refused_before_any_is_made(net: ConvGapNet):
    model = wrap_module(net, transform=Transform.plain((16, 24)))
    known = {"m": model}, {"climbing": OfferedMethod(Climbing(), plugin="", distribution="")}, "m", "climbing", {}
    wanted = Wanted(targeted=True, outputs=(whylight.MapOutput(), whylight.PictureOutput()))
    needed = 3 * 16 * 24 * (4 + 1)
    plan_synthesis(*known, wanted, Limits(message_bytes=needed))
    with pytest.raises(InvalidInput) as caught:
        plan_synthesis(*known, wanted, Limits(message_bytes=needed - 1))
    assert (caught.value.reason, caught.value.violations[0].field) == ("OUTPUT_TOO_LARGE", "outputs")


def test_a_model_that_takes_more_than_pictures_is_refused(net: ConvGapNet):
    model = replace(
        wrap_module(net, transform=Transform.plain((16, 24))), companions={"words": Companion(shape=(3,), high=9)}
    )
    offered = {"climbing": OfferedMethod(Climbing(), plugin="", distribution="")}
    with pytest.raises(whylight.Unsupported, match="words") as caught:
        plan_synthesis({"m": model}, offered, "m", "climbing", {}, Wanted(targeted=True), Limits())
    assert (caught.value.reason, caught.value.violations[0].field) == ("METHOD_UNSUPPORTED", "model")


def test_a_rank_is_no_target_without_an_input_within_a_contrast_either(net: ConvGapNet):
    plan = planned(net)
    check_aims(plan, [whylight.Contrast(0, 1)], Limits())
    for target in (whylight.Rank(0), whylight.Contrast(0, whylight.Rank(1))):
        with pytest.raises(InvalidInput) as caught:
            check_aims(plan, [whylight.ClassIndex(0), target], Limits())
        assert (caught.value.reason, caught.value.violations[0].field) == ("TARGET_INVALID", "input.targets[1]")


def test_one_that_goes_away_leaves_the_others_their_bits(net: ConvGapNet):
    plan = planned(net)
    both = orders(0, 1)
    slices = synthesise(plan, both)
    assert next(slices) == ()
    both[0].cancel.cancel()
    outcomes = finish(slices, {})
    assert bits(outcomes[1]) == bits(finish(synthesise(plan, orders(1)), {})[0])


def test_work_that_nobody_wants_ends_before_its_next_step_and_is_closed(net: ConvGapNet):
    (order,) = orders(0)
    slices = synthesise(planned(net, steps=1000), [order])
    next(slices)
    next(slices)
    before = Climbing.closed
    order.cancel.cancel()
    ((place, outcome),) = next(slices)
    assert place == 0
    assert isinstance(outcome, Cancelled)
    assert Climbing.closed == before + 1
    other = synthesise(planned(net, steps=1000), orders(0))
    next(other)
    other.close()
    assert Climbing.closed == before + 2


@pytest.mark.parametrize(("result", "words"), [("none", "ended"), ("small", "shape"), ("nan", "NaN")])
def test_a_result_that_is_none_is_the_methods_fault(net: ConvGapNet, result: str, words: str):
    (outcome,) = finish(synthesise(planned(net, result=result), orders(0)), {})
    assert isinstance(outcome, MethodFailed)
    assert words in outcome.message


def test_in_process_one_target_gives_one_result_and_a_list_a_list(net: ConvGapNet):
    news: list[Any] = []
    many = whylight.synthesise(
        net,
        Climbing,
        [1, 2],
        seed=4,
        size=(16, 24),
        on_progress=news.append,
        on_preview=news.append,
        preview_interval=2,
    )
    one = whylight.synthesise(net, Climbing, 2, seed=4, size=(16, 24))
    assert many[1].explanation.picture.data == one.explanation.picture.data
    assert (one.explanation.picture.width, one.explanation.picture.height) == (24, 16)
    assert len(one.predictions) == 5
    steps = [(event.target_index, event.step) for event in news if isinstance(event, whylight.SynthesisProgress)]
    assert (0, 1) in steps
    assert (1, 3) in steps
    shown = [(event.target_index, event.step) for event in news if isinstance(event, whylight.SynthesisPreview)]
    assert shown == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"target": None}, "target"),
        ({"target": 99}, "target"),
        ({"target": [0, 99]}, "target[1]"),
        ({"target": 0, "pictures": [np.zeros((8, 8, 3), np.uint8)]}, "pictures"),
        ({"target": 0, "options": {"stepz": 1}}, "method.options.stepz"),
        ({"target": 0, "size": (0, 8)}, "size"),
    ],
)
def test_in_process_an_error_names_the_argument(net: ConvGapNet, keywords: dict[str, Any], field: str):
    with pytest.raises(InvalidInput) as refused:
        whylight.synthesise(net, Climbing, **keywords)
    assert [violation.field for violation in refused.value.violations] == [field]


class Looking(whylight.Inspection):
    """Gives the means of its inputs, and raises where it is told to."""

    name = "looking"

    def inspect(self, subject: Any, task: whylight.InspectionTask, options: Any) -> Iterator[Any]:
        yield whylight.Progress(1, 1)
        table = whylight.Table("classes", ("class",), tuple((str(target),) for target in task.targets))
        yield whylight.Inspected((whylight.Map("means", task.inputs.mean((1, 2, 3)).numpy()), table), {"n": 1.0})


def test_in_process_an_inspection_gives_its_artifacts(net: ConvGapNet):
    news: list[Any] = []
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (0, 255)]
    found = whylight.inspect(net, Looking, pictures, 3, on_progress=news.append)
    means, table = found.artifacts
    assert isinstance(means, whylight.Map)
    np.testing.assert_allclose(means.array, [0.0, 1.0])
    assert isinstance(table, whylight.Table)
    assert len(table.rows) == 1
    assert news == [whylight.InspectionProgress(1, 1)]
    with pytest.raises(WhylightError, match="one size"):
        whylight.inspect(net, Looking, [np.zeros((3, 16, 16), np.float32), np.zeros((3, 16, 24), np.float32)])
