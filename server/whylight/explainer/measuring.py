"""Runs metrics on the maps of a batch and checks what they give; knows neither callers nor pictures."""

from __future__ import annotations

import difflib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whylight.errors import Cancelled, MethodFailed, NotFound, Unsupported, WhylightError
from whylight.explainer.lacking import is_out_of_memory
from whylight.explanation import Curve, Measurement
from whylight.metric import Measured, Metric
from whylight.options import PlainOptions, parse_options

if TYPE_CHECKING:
    from whylight.explainer.plan import PlannedMethod
    from whylight.method import Batch
    from whylight.models import Model
    from whylight.plugins import OfferedMetric
    from whylight.subject import Subject

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedMetric:
    """One metric of a plan, at `index` among them.

    `cost` counts model evaluations for one map, reruns of the method left out; `explanations` counts those.
    """

    index: int
    offered: OfferedMetric
    metric: Metric
    options: PlainOptions
    cost: float
    explanations: int

    def cost_on(self, method_cost: float) -> float:
        """Return how many model evaluations a map needs that costs so many itself."""
        return self.cost + self.explanations * method_cost


def plan_metric(
    model: Model, metrics: Mapping[str, OfferedMetric], name: str, options: Mapping[str, Any], index: int
) -> PlannedMetric:
    """Check one metric before there is an input.

    Raises:
        NotFound: METRIC_NOT_FOUND.
        InvalidInput: OPTION_INVALID.
        Unsupported: METHOD_UNSUPPORTED, naming what the model lacks.
        MethodFailed: METRIC_FAILED, the plugin failed to say what the metric costs.
    """
    place = f"metrics[{index}]"
    offered = metrics.get(name)
    if offered is None:
        close = difflib.get_close_matches(name[:256], metrics, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(metrics)) or 'none'}"
        raise NotFound(f"there is no metric {name[:64]!r}; {hint}", reason="METRIC_NOT_FOUND", field=f"{place}.name")
    metric = offered.metric
    missing = sorted(need.value for need in metric.needs - model.capabilities)
    if missing:
        raise Unsupported(
            f"the metric {name!r} needs {', '.join(missing)}, which the model {model.name!r} has not",
            field=f"{place}.name",
            metadata={"metric": name, "missing": ",".join(missing)},
        )
    try:
        parsed = parse_options(metric.Options, options)
    except WhylightError as error:
        raise error.within(place) from None
    try:
        cost, explanations = float(metric.cost(parsed)), int(metric.explanations(parsed))
        if not (0 <= cost < math.inf and explanations >= 0):
            raise ValueError(f"a cost of {cost} and {explanations} explanations")
    except Exception as error:
        raise _failed(offered, "failed while it was planned") from error
    return PlannedMetric(index, offered, metric, parsed, cost, explanations)


class Measuring:
    """Measures the maps of one method and one batch with every metric of a plan.

    `maps` are those of the method as it gave them; metrics get them behind the ReLU that its definition ends in.
    """

    def __init__(self, planned: PlannedMethod, model: Model, batch: Batch, maps: Tensor) -> None:
        self._planned = planned
        self._model = model
        self._batch = batch  # with the seeds of the method
        self._maps = self._shown(maps)

    def measure(self, metric: PlannedMetric, subject: Subject, seeds: Sequence[int]) -> list[Measurement]:
        """Return what a metric says of each target; `seeds` has one for each input.

        Raises:
            WhylightError: what the metric raises, its options' field paths below ``metrics[index]``.
            MethodFailed: METRIC_FAILED, it raised something else, or gave something other than finite numbers.
        """
        started = time.perf_counter()
        batch = replace(self._batch, seeds=tuple(seeds), progress=None)
        try:
            found = metric.metric.measure(subject, batch, self._maps.clone(), self._explain, metric.options)
            values, curve = _checked(metric.offered, found, len(batch.targets))
        except Cancelled:
            raise
        except WhylightError as error:
            raise error.locate({"options": f"metrics[{metric.index}].options"}) from None
        except Exception as error:
            if is_out_of_memory(error):
                raise
            log.error("the metric %r of plugin %r failed", metric.metric.name, metric.offered.plugin, exc_info=error)
            raise _failed(metric.offered, "failed for this input") from error
        seconds = time.perf_counter() - started
        return [
            Measurement(
                metric=metric.metric.name,
                metric_version=metric.metric.version,
                options=metric.options.model_dump(mode="json"),
                value=value,
                higher_is_better=metric.metric.higher_is_better,
                curve=curve[m] if curve else None,
                seed=seeds[row] if metric.metric.stochastic else None,
                compute_time=seconds,
            )
            for m, (row, value) in enumerate(zip(batch.rows, values, strict=True))
        ]

    def _explain(self, batch: Batch, subject: Subject | None = None) -> Tensor:
        """Run the method on another batch with the same rows; see `whylight.metric.Explain`."""
        from whylight.explainer.attribution import attribute

        if batch.rows != self._batch.rows or len(batch.inputs) != len(self._batch.inputs):
            raise ValueError("explain takes a batch that has the rows of the one that is measured")
        own = replace(batch, seeds=self._batch.seeds, progress=None)
        return self._shown(attribute(self._planned, subject or self._model.subject(batch.cancel), own).maps)

    def _shown(self, maps: Tensor) -> Tensor:
        return maps.clamp(min=0) if self._planned.scale.rectify else maps


def _checked(offered: OfferedMetric, found: Any, count: int) -> tuple[list[float], list[Curve]]:
    """Return the value of each target, and its curve if there are any."""
    if not isinstance(found, Measured):
        raise _failed(offered, f"gave {type(found).__name__}, not a Measured")
    if not isinstance(found.values, Tensor) or found.values.shape != (count,):
        raise _failed(offered, "gave something other than one number for each target")
    values = [float(value) for value in found.values.detach().tolist()]
    if not all(map(math.isfinite, values)):
        raise _failed(offered, "gave NaN or infinity")
    if found.curve is None:
        return values, []
    x, y = found.curve.x.detach(), found.curve.y.detach()
    if x.dim() != 1 or y.shape != (count, len(x)) or not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
        raise _failed(offered, "gave a curve that is not finite, or not one row for each target")
    places = tuple(x.tolist())
    return values, [Curve(places, tuple(row)) for row in y.tolist()]


def _failed(offered: OfferedMetric, what: str) -> MethodFailed:
    return MethodFailed(
        f"the metric {offered.metric.name!r} {what}",
        reason="METRIC_FAILED",
        metadata={"metric": offered.metric.name, "plugin": offered.plugin},
    )
