"""Explains batches of decoded inputs, one bad input never harming the others; knows neither requests nor processes."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from whylight.decode import DecodedInput
from whylight.errors import Cancelled, InvalidInput, Overloaded, WhylightError
from whylight.explainer.attribution import attribute, batch_of, predict
from whylight.explainer.inputs import answer_bytes, decode_input
from whylight.explainer.plan import ExplanationPlan, make_plan, method_failed
from whylight.explainer.targets import check_targets, located
from whylight.explanation import Execution, Explained, Explanation
from whylight.limits import Limits
from whylight.outputs import Output
from whylight.render import render
from whylight.subject import CancelToken
from whylight.target import TOP_PREDICTION, Target

if TYPE_CHECKING:
    from whylight.models import Model
    from whylight.plugins import OfferedMethod

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """One input on its way through a batch; `place` is its place in the caller's list."""

    place: int
    input: DecodedInput
    targets: tuple[Target, ...]
    seed: int
    cancel: CancelToken


class Explainer:
    """Plans, decodes and explains, for the models and methods that it is given.

    `plan` and `decode` may be called from any thread; `explain` too, though a worker calls it from one.
    """

    def __init__(
        self, models: Mapping[str, Model], methods: Mapping[str, OfferedMethod], *, limits: Limits | None = None
    ) -> None:
        self.models = models
        self.methods = methods
        self.limits = limits or Limits()
        self._encoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="whylight-encode")

    def plan(
        self,
        model: str,
        method: str,
        options: Mapping[str, Any],
        outputs: tuple[Output, ...] = (),
        top_predictions: int = 5,
    ) -> ExplanationPlan:
        """Check everything that can be known before there is an input; see `make_plan` for what it raises."""
        return make_plan(self.models, self.methods, model, method, options, outputs, top_predictions)

    def decode(self, plan: ExplanationPlan, data: bytes | npt.NDArray[Any]) -> DecodedInput:
        """Read an image file or an array for the model of `plan`; see `decode_input` for what it raises."""
        return decode_input(plan, data, self.limits)

    def explain(
        self,
        plan: ExplanationPlan,
        inputs: Sequence[DecodedInput],
        targets: Sequence[tuple[Target, ...]],
        seeds: Sequence[int],
        cancels: Sequence[CancelToken],
    ) -> list[Explained | WhylightError]:
        """Explain every input for each of its targets (none: the top prediction), and return what came of each.

        Nothing is raised for what an input, a target, a method or a lack of memory causes: it is that input's result.
        Inputs of one shape run together. When a batch fails, its inputs run one by one, so that only the guilty one
        fails; when memory runs out, the batch is halved, and in the end the targets of one input are.
        """
        results: list[Explained | WhylightError | None] = [None] * len(inputs)
        shapes: dict[tuple[int, int], list[_Job]] = {}
        for place, (item, wanted, seed, cancel) in enumerate(zip(inputs, targets, seeds, cancels, strict=True)):
            job = _Job(place, item, tuple(wanted) or (TOP_PREDICTION,), seed, cancel)
            try:
                self._check(plan, job)
            except WhylightError as error:
                results[place] = error
            else:
                shapes.setdefault(item.size, []).append(job)
        waiting = deque(shapes.values())
        while waiting:
            waiting.extendleft(reversed(self._advance(plan, waiting.popleft(), results)))
        return [_certain(result) for result in results]

    def _check(self, plan: ExplanationPlan, job: _Job) -> None:
        check_targets(plan.model, job.targets, self.limits)
        needed = answer_bytes(plan.outputs, job.input) * len(job.targets)
        if needed > self.limits.message_bytes:
            raise InvalidInput(
                f"the artifacts of {len(job.targets)} targets take {needed} bytes, more than the "
                f"{self.limits.message_bytes} of one answer; ask for fewer, or on a smaller canvas",
                reason="OUTPUT_TOO_LARGE",
                field="outputs",
            )

    def _advance(
        self, plan: ExplanationPlan, jobs: list[_Job], results: list[Explained | WhylightError | None]
    ) -> list[list[_Job]]:
        """Run jobs together and enter their results; return what is to be run again in smaller parts."""
        for job in jobs:
            if job.cancel.cancelled:
                results[job.place] = Cancelled("the call was cancelled")
        jobs = [job for job in jobs if not isinstance(results[job.place], WhylightError)]
        if not jobs:
            return []
        outcome = self._attempt(plan, jobs)
        if not isinstance(outcome, Exception):
            for job, explained in zip(jobs, outcome, strict=True):
                results[job.place] = _joined(results[job.place], explained)
            return []
        if _is_out_of_memory(outcome):
            outcome.__traceback__ = None  # with it go the tensors of the failed run
            _free_memory()
            log.warning("out of memory with %d inputs; going on with fewer", len(jobs))
            smaller = _halves(jobs)
            if not smaller:
                results[jobs[0].place] = Overloaded("the device has no memory for this input", reason="OUT_OF_MEMORY")
            return smaller
        if isinstance(outcome, Cancelled) and all(job.cancel.cancelled for job in jobs):
            for job in jobs:
                results[job.place] = Cancelled(outcome.message)
            return []
        if len(jobs) > 1:
            return [[job] for job in jobs]
        results[jobs[0].place] = self._blame(plan, jobs[0], outcome)
        return []

    def _attempt(self, plan: ExplanationPlan, jobs: Sequence[_Job]) -> list[Explained] | Exception:
        """Explain jobs in one batch, or return what stood in the way."""
        try:
            return self._compute(plan, jobs)
        except Exception as error:
            return error

    def _compute(self, plan: ExplanationPlan, jobs: Sequence[_Job]) -> list[Explained]:
        started = time.perf_counter()
        batch = batch_of(
            plan.model,
            [job.input for job in jobs],
            [job.targets for job in jobs],
            [job.seed for job in jobs],
            CancelToken([job.cancel for job in jobs]),
        )
        subject = plan.model.subject(batch.cancel)
        made = attribute(plan, subject, batch)
        resolved = subject.resolve(batch)
        predictions = predict(plan, subject, batch)
        computed = time.perf_counter()
        inputs = [job.input for job in jobs]
        drawn = render(made.maps, inputs, batch.rows, plan.outputs, plan.colours, plan.scale, self._encoders)
        execution = Execution(
            batch_size=len(jobs),
            compute_time=computed - started,
            render_time=(time.perf_counter() - computed) / len(drawn),
            device=str(plan.model.device),
        )
        options = plan.options.model_dump(mode="json")
        explanations: list[list[Explanation]] = [[] for _ in jobs]
        for m, (row, what, picture) in enumerate(zip(batch.rows, resolved, drawn, strict=True)):
            job = jobs[row]
            explanations[row].append(
                Explanation(
                    method=plan.method.name,
                    method_version=plan.method.version,
                    options=options,
                    target=what.target,
                    target_label=what.label,
                    target_score=what.score,
                    map_min=picture.low,
                    map_max=picture.high,
                    artifacts=picture.artifacts,
                    checks={name: values[m] for name, values in made.checks.items()},
                    seed=job.seed if plan.stochastic else None,
                    execution=replace(execution, decode_time=job.input.decode_time),
                )
            )
        return [
            Explained(
                predictions=predictions[n],
                explanations=tuple(explanations[n]),
                original_size=job.input.original_size,
                input_size=(job.input.size[1], job.input.size[0]),
            )
            for n, job in enumerate(jobs)
        ]

    def _blame(self, plan: ExplanationPlan, job: _Job, error: Exception) -> WhylightError:
        """Tell what made one input fail on its own: its target, its shape, or the method."""
        if isinstance(error, WhylightError):
            return located(error, "input.targets[0]" if len(job.targets) == 1 else "input.targets")
        if job.input.size != plan.model.input_size and not self._runs(plan, job):
            channels, (height, width) = plan.model.input_channels, job.input.size
            return InvalidInput(
                f"the model {plan.model.name!r} does not take inputs of [{channels}, {height}, {width}]; "
                f"its own are [{channels}, {plan.model.input_size[0]}, {plan.model.input_size[1]}]",
                reason="TENSOR_INVALID",
                field="input.tensor.shape",
            )
        log.error("the method %r of plugin %r failed", plan.method.name, plan.offered.plugin, exc_info=error)
        failed = method_failed(plan.offered, "failed for this input")
        failed.__cause__ = error
        return failed

    def _runs(self, plan: ExplanationPlan, job: _Job) -> bool:
        """Whether the model takes this input at all, whatever the method makes of it."""
        batch = batch_of(plan.model, [job.input], [job.targets], [job.seed], job.cancel)
        try:
            plan.model.subject(job.cancel).forward(batch.inputs)
        except Exception:
            return False
        return True


def _joined(before: Explained | WhylightError | None, explained: Explained) -> Explained:
    """Put the explanations of an input's further targets after those that it has."""
    if not isinstance(before, Explained):
        return explained
    return replace(before, explanations=before.explanations + explained.explanations)


def _halves(jobs: list[_Job]) -> list[list[_Job]]:
    """Split jobs in two, or a single job's targets; return nothing when there is nothing left to split."""
    if len(jobs) > 1:
        middle = (len(jobs) + 1) // 2
        return [jobs[:middle], jobs[middle:]]
    (job,) = jobs
    middle = (len(job.targets) + 1) // 2
    if middle == len(job.targets):
        return []
    return [[replace(job, targets=job.targets[:middle])], [replace(job, targets=job.targets[middle:])]]


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory from other failures; on a CPU torch says it only in words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _certain(result: Explained | WhylightError | None) -> Explained | WhylightError:
    assert result is not None
    return result
