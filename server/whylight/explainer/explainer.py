"""Explains batches of decoded inputs, one bad input never harming the others; knows neither requests nor processes."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from PIL import Image

from whylight.data_set import NO_DATA_SETS, DataSets
from whylight.decode import DecodedInput
from whylight.errors import Cancelled, InvalidInput, Overloaded, WhylightError
from whylight.explainer.attribution import Attributed, attribute, batch_of, predict
from whylight.explainer.gathering import Ahead
from whylight.explainer.inputs import answer_bytes, decode_input, target_bytes
from whylight.explainer.jobs import Answers, Job, halves
from whylight.explainer.lacking import free_memory, is_out_of_memory
from whylight.explainer.measuring import Measuring
from whylight.explainer.plan import ExplanationPlan, PlannedMethod, make_plan, method_failed
from whylight.explainer.progress import Reporter, Watcher
from whylight.explainer.references import with_embeddings
from whylight.explainer.targets import check_targets, located
from whylight.explanation import Execution, Explained, Explanation, Measurement
from whylight.limits import Limits
from whylight.outputs import Output
from whylight.render import render
from whylight.subject import CancelToken
from whylight.target import TOP_PREDICTION, ResolvedTarget, Target

if TYPE_CHECKING:
    from whylight.method import Batch
    from whylight.models import Model
    from whylight.plugins import OfferedMethod, OfferedMetric
    from whylight.subject import Subject

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    """Why a batch cannot go on, and the index of the method that it was at."""

    error: BaseException
    method: int


@dataclass(frozen=True)
class _Made:
    """What one method made of a batch, what it had not to compute for it, and how many seconds it took.

    `measured` has for each metric what it says of each target.
    """

    planned: PlannedMethod
    index: int
    maps: Attributed
    shared: tuple[str, ...]
    seconds: float
    measured: Sequence[Sequence[Measurement]] = ()


class Explainer:
    """Plans, decodes and explains, for the models and methods that it is given.

    `plan` and `decode` may be called from any thread; `explain` too, though a worker calls it from one.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        methods: Mapping[str, OfferedMethod],
        metrics: Mapping[str, OfferedMetric] | None = None,
        *,
        limits: Limits | None = None,
        data_sets: DataSets = NO_DATA_SETS,
    ) -> None:
        self.models = models
        self.methods = methods
        self.metrics = metrics or {}
        self.limits = limits or Limits()
        self.data_sets = data_sets
        self._encoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="whylight-encode")

    def plan(
        self,
        model: str,
        method: str,
        options: Mapping[str, Any],
        outputs: tuple[Output, ...] = (),
        top_predictions: int = 5,
    ) -> ExplanationPlan:
        """Check everything that can be known of one method before there is an input; see `make_plan` for the errors."""
        return self.plan_methods(model, [(method, options)], outputs, top_predictions)

    def plan_methods(
        self,
        model: str,
        calls: Sequence[tuple[str, Mapping[str, Any]]],
        outputs: tuple[Output, ...] = (),
        top_predictions: int = 5,
        metrics: Sequence[tuple[str, Mapping[str, Any]]] = (),
        *,
        models: Mapping[str, Model] | None = None,
    ) -> ExplanationPlan:
        """Check several methods with their options, to be run in this order, and the metrics that measure their maps.

        `models` are taken in place of the explainer's own, if given. See `make_plan` for the errors.
        """
        given = self.models if models is None else models
        return make_plan(given, self.methods, model, calls, outputs, top_predictions, self.metrics, metrics)

    def decode(
        self,
        plan: ExplanationPlan,
        data: bytes | npt.NDArray[Any] | Image.Image,
        companions: Mapping[str, npt.NDArray[Any]] | None = None,
        targets: Sequence[Target] = (),
    ) -> DecodedInput:
        """Read a file, an array or an upright RGB picture for the model of `plan`; see `decode_input` for errors."""
        return decode_input(plan, data, self.limits, companions, targets)

    def explain(
        self,
        plan: ExplanationPlan,
        inputs: Sequence[DecodedInput],
        targets: Sequence[tuple[Target, ...]],
        seeds: Sequence[Sequence[int]],
        cancels: Sequence[CancelToken],
        watchers: Sequence[Watcher | None] = (),
        ahead: Ahead | None = None,
    ) -> list[Explained | WhylightError]:
        """Explain every input for each of its targets (none: the top prediction), and return what came of each.

        `seeds` has, for each input, one for each method and then for each metric. The methods run one after the other
        over one subject, so that what one has computed is there for the next. `watchers`, if there are any, has for
        each input who is told of its progress. `ahead` are the inputs, if they were sent to the device by now.

        Nothing is raised for what an input, a target, a method or a lack of memory causes: it is that input's result.
        Inputs of one shape run together. When a batch fails, its inputs run one by one, so that only the guilty one
        fails; when memory runs out, the batch is halved, and in the end the targets and the methods of one input are.
        """
        answers = Answers(len(inputs))
        shapes: dict[tuple[Any, ...], list[Job]] = {}
        every = tuple(range(len(plan.methods)))
        everybody = watchers or [None] * len(inputs)
        given = zip(inputs, targets, seeds, cancels, everybody, strict=True)
        for place, (item, wanted, seed, cancel, watcher) in enumerate(given):
            job = Job(place, item, tuple(wanted) or (TOP_PREDICTION,), tuple(seed), cancel, every, watcher)
            try:
                self._check(plan, job)
            except WhylightError as error:
                answers.fail(place, error)
            else:
                shapes.setdefault(item.shapes, []).append(job)
        waiting = deque(shapes.values())
        while waiting:
            waiting.extendleft(reversed(self._advance(plan, waiting.popleft(), answers, ahead)))
        return answers.results()

    def _check(self, plan: ExplanationPlan, job: Job) -> None:
        check_targets(plan.model, job.targets, self.limits)
        needed = answer_bytes(plan.outputs, job.input) * len(job.targets) * len(job.methods)
        needed += sum(target_bytes(plan.model, target) for target in job.targets) * len(job.methods)
        if needed > self.limits.message_bytes:
            raise InvalidInput(
                f"the artifacts of {len(job.targets)} targets by {len(job.methods)} methods take {needed} bytes, more "
                f"than the {self.limits.message_bytes} of one answer; ask for fewer, or on a smaller canvas",
                reason="OUTPUT_TOO_LARGE",
                field="outputs",
            )

    def _advance(
        self, plan: ExplanationPlan, jobs: list[Job], answers: Answers, ahead: Ahead | None
    ) -> list[list[Job]]:
        """Run jobs together and enter their results; return what is to be run again in smaller parts."""
        for job in jobs:
            if job.cancel.cancelled:
                answers.fail(job.place, Cancelled("the call was cancelled"))
        jobs = [job for job in jobs if not answers.failed(job.place)]
        if not jobs:
            return []
        outcome = self._attempt(plan, jobs, ahead)
        if not isinstance(outcome, _Failure):
            for job, explained in zip(jobs, outcome, strict=True):
                answers.add(job, explained)
            return []
        error = outcome.error
        if is_out_of_memory(error):
            error.__traceback__ = None  # with it go the tensors of the failed run
            free_memory()
            log.warning("out of memory with %d inputs; going on with fewer", len(jobs))
            smaller = halves(jobs)
            if not smaller:
                lacking = Overloaded("the device has no memory for this input", reason="OUT_OF_MEMORY")
                answers.fail(jobs[0].place, lacking)
            return smaller
        if isinstance(error, Cancelled) and all(job.cancel.cancelled for job in jobs):
            for job in jobs:
                answers.fail(job.place, Cancelled(error.message))
            return []
        if len(jobs) > 1:
            return [[job] for job in jobs]
        answers.fail(jobs[0].place, self._blame(plan, jobs[0], outcome))
        return []

    def _attempt(self, plan: ExplanationPlan, jobs: Sequence[Job], ahead: Ahead | None) -> list[Explained] | _Failure:
        """Explain jobs in one batch, or return what stood in the way. They have their methods in common."""
        first, *_ = indices = jobs[0].methods
        index = first
        made: list[_Made] = []
        try:
            started = time.perf_counter()
            cancel = CancelToken([job.cancel for job in jobs])
            inputs = [job.input for job in jobs]
            held = None if ahead is None else ahead.take([job.place for job in jobs])
            batch = batch_of(plan.model, inputs, [job.targets for job in jobs], cancel, held)
            del held  # pictures as bytes, which were made floats of
            batch = with_embeddings(plan.model, batch, inputs)
            subject = plan.model.subject(batch.cancel)
            for index in indices:
                planned = plan.methods[index]
                subject.begin()
                own = replace(
                    batch,
                    seeds=tuple(job.seeds[index] for job in jobs),
                    progress=Reporter(planned, index, jobs, batch.rows),
                )
                maps = attribute(planned, subject, own)
                shared = () if index == first else tuple(subject.taken_over())
                if index == first:
                    resolved = subject.resolve(batch)
                    predictions = predict(plan, subject, batch)
                seconds = time.perf_counter() - started
                measured = self._measure(plan, jobs, subject, own, planned, maps)
                made.append(_Made(planned, index, maps, shared, seconds, measured))
                started = time.perf_counter()
            explanations: list[list[Explanation]] = [[] for _ in jobs]
            for one in made:
                index = one.index
                self._draw(plan, jobs, batch.rows, resolved, one, explanations)
        except (Exception, SystemExit) as error:  # a plugin that calls sys.exit fails as others do
            return _Failure(error, index)
        return [
            Explained(
                predictions=predictions[n],
                explanations=tuple(explanations[n]),
                original_size=job.input.original_size,
                input_size=(job.input.size[1], job.input.size[0]),
            )
            for n, job in enumerate(jobs)
        ]

    def _measure(
        self,
        plan: ExplanationPlan,
        jobs: Sequence[Job],
        subject: Subject,
        batch: Batch,
        planned: PlannedMethod,
        maps: Attributed,
    ) -> list[list[Measurement]]:
        """Return what each metric of the plan says of the maps of one method."""
        if not plan.metrics:
            return []
        measuring = Measuring(planned, plan.model, batch, maps.maps)
        found = []
        for metric in plan.metrics:
            batch.cancel.check()
            seeds = [job.seeds[len(plan.methods) + metric.index] for job in jobs]
            found.append(measuring.measure(metric, subject, seeds))
        return found

    def _draw(
        self,
        plan: ExplanationPlan,
        jobs: Sequence[Job],
        rows: Sequence[int],
        resolved: Sequence[ResolvedTarget],
        made: _Made,
        explanations: Sequence[list[Explanation]],
    ) -> None:
        """Put one method's explanations behind those that each job has."""
        planned = made.planned
        started = time.perf_counter()
        inputs = [job.input for job in jobs]
        drawn = render(made.maps.maps, inputs, rows, plan.outputs, planned.colours, planned.scale, self._encoders)
        execution = Execution(
            batch_size=len(jobs),
            compute_time=made.seconds,
            render_time=(time.perf_counter() - started) / len(drawn),
            device=str(plan.model.device),
            shared=made.shared,
        )
        options = planned.options.model_dump(mode="json")
        for m, (row, what, picture) in enumerate(zip(rows, resolved, drawn, strict=True)):
            job = jobs[row]
            explanations[row].append(
                Explanation(
                    method=planned.method.name,
                    method_version=planned.method.version,
                    options=options,
                    target=what.target,
                    target_label=what.label,
                    target_score=what.score,
                    map_min=picture.low,
                    map_max=picture.high,
                    artifacts=picture.artifacts,
                    checks={name: values[m] for name, values in made.maps.checks.items()},
                    seed=job.seeds[made.index] if planned.stochastic else None,
                    execution=replace(execution, decode_time=job.input.decode_time),
                    measurements=tuple(measured[m] for measured in made.measured),
                )
            )

    def _blame(self, plan: ExplanationPlan, job: Job, failure: _Failure) -> WhylightError:
        """Tell what made one input fail on its own: its target, its shape, or a method."""
        error = failure.error
        if isinstance(error, WhylightError):
            one = f"input.targets[{job.first_target}]"  # of those of the input, of which the job may have a part
            return located(error, one if len(job.targets) == 1 else "input.targets", failure.method)
        if job.input.size != plan.model.input_size and not self._runs(plan, job):
            channels, (height, width) = plan.model.input_channels, job.input.size
            return InvalidInput(
                f"the model {plan.model.name!r} does not take inputs of [{channels}, {height}, {width}]; "
                f"its own are [{channels}, {plan.model.input_size[0]}, {plan.model.input_size[1]}]",
                reason="TENSOR_INVALID",
                field="input.tensor.shape",
            )
        offered = plan.methods[failure.method].offered
        log.error("the method %r of plugin %r failed", offered.method.name, offered.plugin, exc_info=error)
        failed = method_failed(offered, "failed for this input")
        failed.__cause__ = error
        return failed

    def _runs(self, plan: ExplanationPlan, job: Job) -> bool:
        """Whether the model takes this input at all, whatever a method makes of it."""
        batch = batch_of(plan.model, [job.input], [job.targets], job.cancel)
        try:
            plan.model.subject(job.cancel).forward(batch.inputs, batch.companions)
        except Exception:
            return False
        return True
