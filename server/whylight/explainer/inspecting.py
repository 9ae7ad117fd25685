"""Inspects a model for one caller, step by step; knows neither requests nor processes."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from whylight.artifact import Boxes, Map, Picture, Points, Table
from whylight.decode import DecodedInput
from whylight.errors import InvalidInput, WhylightError
from whylight.explainer.attribution import stacked
from whylight.explainer.long_plan import LongPlan
from whylight.explainer.plan import method_failed
from whylight.explainer.slices import Ended, Slices, advanced, failure_of, in_parts
from whylight.explainer.step_watcher import StepWatcher
from whylight.explainer.synthesising import placed
from whylight.explanation import Execution, Explained, Explanation
from whylight.method import Inspected, Inspection, InspectionTask, Progress
from whylight.subject import CancelToken
from whylight.target import Target


@dataclass(frozen=True)
class Viewing:
    """What one caller wants to see; the inputs have one size."""

    inputs: tuple[DecodedInput, ...]
    targets: tuple[Target, ...]
    seed: int
    cancel: CancelToken
    watcher: StepWatcher | None = None


def inspect(plan: LongPlan, viewing: Viewing) -> Slices:
    """Look at what `viewing` asks for. Nothing is raised for what it, the method or a lack of memory causes."""

    def attempt(places: list[int]) -> Generator[Ended, None, list[Explained]]:
        return _look(plan, viewing)

    def blame(place: int, error: BaseException) -> WhylightError:
        return placed(error, "targets") if isinstance(error, WhylightError) else failure_of(plan, error)

    return in_parts([viewing.cancel], attempt, blame)


def check_sizes(inputs: Sequence[DecodedInput]) -> None:
    """Refuse inputs of different sizes.

    Raises:
        InvalidInput: TENSOR_INVALID.
    """
    for index, item in enumerate(inputs):
        if item.size != inputs[0].size:
            raise InvalidInput(
                f"the inputs of an inspection have one size, not {inputs[0].size} and {item.size}",
                reason="TENSOR_INVALID",
                field=f"inputs[{index}]",
            )


def _look(plan: LongPlan, viewing: Viewing) -> Generator[Ended, None, list[Explained]]:
    assert isinstance(plan.method, Inspection)
    model = plan.model
    if viewing.inputs:
        inputs = stacked(model, viewing.inputs)
    else:
        inputs = torch.empty(0, model.input_channels, *model.input_size, device=model.device, dtype=model.dtype)
    task = InspectionTask(inputs, viewing.targets, viewing.seed, viewing.cancel, plan.data_sets)

    def on_progress(step: Progress) -> None:
        if viewing.watcher is not None:
            viewing.watcher.step(step.step, step.total, dict, lambda: None)

    steps = plan.method.inspect(model.subject(viewing.cancel, plan.others), task, plan.options)
    found, busy = yield from advanced(plan, steps, viewing.cancel, Inspected, on_progress)
    _check(plan, found)
    explanation = Explanation(
        method=plan.method.name,
        method_version=plan.method.version,
        options=plan.options.model_dump(mode="json"),
        target=None,
        target_label="",
        target_score=0.0,
        map_min=0.0,
        map_max=0.0,
        artifacts=tuple(found.artifacts),
        checks={name: float(value) for name, value in found.checks.items()},
        seed=viewing.seed if plan.stochastic else None,
        execution=Execution(
            compute_time=busy,
            decode_time=sum(item.decode_time for item in viewing.inputs),
            device=str(model.device),
        ),
    )
    size = (inputs.shape[3], inputs.shape[2])
    return [Explained((), (explanation,), original_size=size, input_size=size)]


def _check(plan: LongPlan, found: Inspected) -> None:
    names = set()
    for artifact in found.artifacts:
        if not isinstance(artifact, Map | Picture | Boxes | Points | Table):
            raise method_failed(plan.offered, f"gave {type(artifact).__name__}, which is no artifact")
        if artifact.name in names:
            raise method_failed(plan.offered, f"gave two artifacts the name {artifact.name!r}")
        names.add(artifact.name)
    for name, value in found.checks.items():
        if not isinstance(value, int | float) or math.isnan(value):
            raise method_failed(plan.offered, f"gave a check {name!r} that is no number")
