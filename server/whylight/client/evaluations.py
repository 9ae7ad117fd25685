"""What a caller asks about methods, as it is written in Python, made into a message, and its answer read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from whylight import wire
from whylight.calls import MetricCall
from whylight.client.requests import Metrics, Request, build_request, checked_size
from whylight.errors import InternalError, WhylightError
from whylight.evaluation import Evaluation
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import integer


def build_evaluation(request: Request, metrics: Metrics, max_bytes: int | None = None) -> pb.EvaluateRequest:
    """Return a request with metrics as a message. Reads the files that it names.

    Raises:
        InvalidInput: as `build_request`.
    """
    explain = build_request(request)
    message = pb.EvaluateRequest(
        model=explain.model,
        methods=explain.methods,
        metrics=_metrics(metrics),
        inputs=explain.inputs,
        targets=explain.targets,
        outputs=explain.outputs,
        top_predictions=explain.top_predictions,
        priority=explain.priority,
    )
    return checked_size(message, max_bytes)


def read_evaluation(request: Request, response: pb.EvaluateResponse) -> Evaluation:
    """Return the answer to `request`.

    Raises:
        InternalError: the response does not fit the request, or cannot be read (RESPONSE_INVALID).
        WhylightError: the first error, where no image could be explained.
    """
    expected = 1 if request.single else len(request.images)  # type: ignore[arg-type]  # a list or a tuple, as `single` says
    if len(response.results) != expected:
        raise InternalError(f"{len(response.results)} results for {expected} inputs", reason="RESPONSE_INVALID")
    results = tuple(wire.result_from_proto(result) for result in response.results)
    errors = [result for result in results if isinstance(result, WhylightError)]
    if errors and len(errors) == len(results):
        raise errors[0]
    return Evaluation(
        results,
        tuple(wire.ranking_from_proto(ranking) for ranking in response.rankings),
        response.model,
        response.model_digest,
    )


def _metrics(metrics: Any) -> Iterator[pb.MetricCall]:
    several: Sequence[Any] = metrics if isinstance(metrics, list | tuple) else [metrics]
    for index, metric in enumerate(several):
        call = metric if isinstance(metric, MetricCall) else MetricCall(metric)
        place = f"metrics[{index}]"
        message = pb.MetricCall(name=call.name, options=wire.dict_to_struct(call.options, f"{place}.options"))
        if call.seed is not None:
            message.seed = integer(call.seed, 64, signed=False, reason="REQUEST_INVALID", field=f"{place}.seed")
        yield message
