"""One EvaluateRequest from its check to its answer; knows neither calls and streams nor how the engine works."""

from __future__ import annotations

from whylight.evaluation import rank_methods
from whylight.rpc.explaining import Explaining
from whylight.v1 import explanation_pb2 as v1
from whylight.wire.measurements import ranking_to_proto


async def evaluate(explaining: Explaining, request: v1.EvaluateRequest, deadline: float | None) -> v1.EvaluateResponse:
    """Answer a request, by `deadline` on the clock of the running loop: explain with metrics, and rank the methods.

    Raises:
        WhylightError: nothing of the request can be tried.
    """
    answer = await explaining.explain(request, deadline)
    explained = [result.explained.explanations for result in answer.results if result.HasField("explained")]
    return v1.EvaluateResponse(
        results=answer.results,
        rankings=map(ranking_to_proto, rank_methods(explained, len(request.methods))),
        model=answer.model,
        model_digest=answer.model_digest,
    )
