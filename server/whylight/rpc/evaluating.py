"""One EvaluateRequest from its check to its answer; knows neither calls and streams nor how the engine works."""

from __future__ import annotations

from dataclasses import replace

from whylight.evaluation import rank_methods
from whylight.limits import Limits
from whylight.rpc.explaining import Explaining
from whylight.rpc.validate import CheckedRequest, check_count, check_method, check_request
from whylight.telemetry.calls import describe
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.measurements import ranking_to_proto


async def evaluate(
    explaining: Explaining, request: v1.EvaluateRequest, limits: Limits, default_model: str, deadline: float | None
) -> v1.EvaluateResponse:
    """Answer a request, by `deadline` on the clock of the running loop: explain with metrics, and rank the methods.

    Raises:
        WhylightError: nothing of the request can be tried.
    """
    describe(request.model or default_model, (one.name for one in request.methods), len(request.inputs))
    answer = await explaining.explain_checked(check_evaluation(request, limits, default_model), deadline)
    explained = [result.explained.explanations for result in answer.results if result.HasField("explained")]
    return v1.EvaluateResponse(
        results=answer.results,
        rankings=map(ranking_to_proto, rank_methods(explained, len(request.methods))),
        model=answer.model,
        model_digest=answer.model_digest,
    )


def check_evaluation(request: v1.EvaluateRequest, limits: Limits, default_model: str) -> CheckedRequest:
    """Check a request and return it in its normal form; see `check_request`, which does it for all but the metrics.

    Raises:
        InvalidInput: something is wrong with the request itself.
    """
    check_count(request.metrics, limits.methods, "metrics", least=1)
    for index, metric in enumerate(request.metrics):
        check_method(metric, limits, f"metrics[{index}]", kind="metric")
    checked = check_request(request, limits, default_model)
    if not request.outputs:
        del checked.spec.outputs[:]
    checked.spec.metrics.extend(v1.MetricCall(name=metric.name, options=metric.options) for metric in request.metrics)
    seeds = tuple(metric.seed if metric.HasField("seed") else None for metric in request.metrics)
    return replace(checked, seeds=checked.seeds + seeds)
