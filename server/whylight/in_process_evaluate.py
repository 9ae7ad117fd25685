"""Evaluates methods without a server, on any module, model or model name; knows no request, no network."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from whylight import in_process
from whylight.calls import MethodCall, MetricCall
from whylight.decode import DecodedInput
from whylight.errors import WhylightError
from whylight.evaluation import Evaluation, rank_methods
from whylight.explainer import Explainer
from whylight.explainer.inputs import decode_input
from whylight.explanation import Explained
from whylight.metric import Metric
from whylight.models import Model
from whylight.outputs import Output
from whylight.plugins import OfferedMetric
from whylight.subject import CancelToken

MetricLike: TypeAlias = str | MetricCall | type[Metric] | Metric
"""The name of a metric, one with options and a seed, or a metric class of your own, or one made of it."""
MethodLike: TypeAlias = in_process.MethodLike | MethodCall

DEFAULT_METRICS = ("insertion", "deletion", "road")


def evaluate(
    model: nn.Module | Model | str,
    images: in_process.ImageLike | Sequence[in_process.ImageLike],
    methods: MethodLike | Sequence[MethodLike],
    metrics: MetricLike | Sequence[MetricLike] = DEFAULT_METRICS,
    target: in_process.TargetLike | Sequence[in_process.TargetLike | Sequence[in_process.TargetLike]] = None,
    *,
    outputs: Sequence[Output] = (),
    seed: int | None = None,
    top_predictions: int = 5,
    device: str | torch.device | None = None,
    companions: in_process.Companions | Sequence[in_process.Companions] | None = None,
) -> Evaluation:
    """Measure how far the maps of several methods can be trusted, and rank the methods.

    `methods` and `metrics` are names, classes of your own, or a `whylight.MethodCall` and a `whylight.MetricCall`,
    which have options and seeds of their own. The rest is as in `whylight.explain`; `outputs` are none unless given,
    and `seed` is that of all methods and metrics that name none of their own.

    Raises:
        WhylightError: nothing could be tried, or every image failed (the first error). Otherwise the error of an image
            stands in its place in `Evaluation.results`.
        TypeError: an argument is of no type that is named above.
    """
    listed, many = in_process._listed(images)
    opened = in_process._opened(model, device, listed)
    drawn = secrets.randbits(63) if seed is None else in_process._seed(seed)
    calls, offered = _methods(methods)
    measures, known = _metrics(metrics)
    explainer = Explainer({opened.name: opened}, offered, known, limits=in_process._LIMITS)
    wanted = in_process._outputs(outputs) if outputs else ()
    plan = explainer.plan_methods(
        opened.name,
        [(call.name, call.options) for call in calls],
        wanted,
        top_predictions,
        [(call.name, call.options) for call in measures],
    )
    given = [call.seed for call in calls] + [call.seed for call in measures]
    seeds = [drawn if one is None else in_process._seed(one) for one in given]
    targets = in_process._targets(target, len(listed), many)
    beside = in_process._companions(companions, len(listed))
    results: list[Explained | WhylightError] = []
    for start in range(0, len(listed), in_process._CHUNK):
        places = range(start, min(start + in_process._CHUNK, len(listed)))
        decoded: dict[int, DecodedInput] = {}
        failed: dict[int, WhylightError] = {}
        for place in places:
            try:
                data = in_process._loaded(listed[place])
                decoded[place] = decode_input(plan, data, in_process._LIMITS, beside[place], targets[place])
            except WhylightError as error:
                failed[place] = error
        made = explainer.explain(
            plan,
            list(decoded.values()),
            [targets[place] for place in decoded],
            [seeds] * len(decoded),
            [CancelToken() for _ in decoded],
        )
        found = {**failed, **dict(zip(decoded, made, strict=True))}
        results += [_named(found[place], place, many) for place in places]
    errors = [result for result in results if isinstance(result, WhylightError)]
    if errors and len(errors) == len(results):
        raise errors[0]
    explained = [result.explanations for result in results if isinstance(result, Explained)]
    return Evaluation(tuple(results), rank_methods(explained, len(calls)), opened.name, opened.digest)


def _named(result: Explained | WhylightError, place: int, many: bool) -> Explained | WhylightError:
    return in_process._named(result, place, many) if isinstance(result, WhylightError) else result


def _methods(methods: Any) -> tuple[list[MethodCall], Mapping[str, Any]]:
    several: list[Any] = list(methods) if isinstance(methods, list | tuple) else [methods]
    names, offered = in_process._methods([one.name if isinstance(one, MethodCall) else one for one in several])
    return [
        one if isinstance(one, MethodCall) else MethodCall(name) for one, name in zip(several, names, strict=True)
    ], offered


def _metrics(metrics: Any) -> tuple[list[MetricCall], dict[str, OfferedMetric]]:
    known = dict(in_process._plugins().metrics)
    calls = []
    for one in metrics if isinstance(metrics, list | tuple) else [metrics]:
        if isinstance(one, str | MetricCall):
            calls.append(MetricCall(one) if isinstance(one, str) else one)
            continue
        own = one() if isinstance(one, type) and issubclass(one, Metric) else one
        if not isinstance(own, Metric):
            raise TypeError(f"a metric is a name, a MetricCall or a whylight.Metric, not {one!r}")
        known[own.name] = OfferedMetric(own, plugin="", distribution="")
        calls.append(MetricCall(own.name))
    return calls, known
