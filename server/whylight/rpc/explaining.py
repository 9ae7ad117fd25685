"""One ExplainRequest from its check to its answer; knows neither calls and streams nor how the engine works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whylight.engine.work import AnswerRoom, Watch, Work
from whylight.errors import InternalError, Unavailable
from whylight.limits import Limits
from whylight.rpc.backend import Backend
from whylight.rpc.context import turn_taker
from whylight.rpc.request_id import current_request_id
from whylight.rpc.validate import CheckedRequest, check_request
from whylight.telemetry.calls import current_request, describe
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import error_from_proto, error_to_proto, min_interval_from_proto
from whylight.worker.v1 import worker_pb2

LOADING_RETRY_SECONDS = 2.0
"""When a client should come again while models are loaded."""


@dataclass(frozen=True)
class Listener:
    """Who is told of a request's progress, and how. `tell` must not block."""

    spec: v1.ProgressSpec
    tell: Callable[[v1.ExplainProgress], None]


class Explaining:
    """Answers requests through an engine. Shared by all calls; keeps nothing of them."""

    def __init__(self, backend: Backend, limits: Limits, default_model: str, response_bytes: int) -> None:
        self._backend = backend
        self._limits = limits
        self._default_model = default_model
        self._response_bytes = response_bytes

    async def explain(
        self,
        request: v1.ExplainRequest | v1.EvaluateRequest,
        deadline: float | None,
        listener: Listener | None = None,
    ) -> v1.ExplainResponse:
        """Answer a request, by `deadline` on the clock of the running loop, and tell `listener` of progress until then.

        All methods together are one work for the engine, for all inputs that are in order, so that they share what they
        need in common.

        Raises:
            WhylightError: nothing of the request can be tried.
        """
        describe(request.model or self._default_model, (one.name for one in request.methods), len(request.inputs))
        loaded_catalog(self._backend)
        checked = check_request(request, self._limits, self._default_model)
        sound = [index for index in range(len(checked.inputs)) if index not in checked.refused]
        inputs = [checked.inputs[index] for index in sound]
        results: list[v1.InputResult] = []
        room = AnswerRoom(self._response_bytes)
        watch = self._watch(listener, [method.name for method in checked.spec.methods], sound) if listener else None
        observed = current_request()
        if observed is not None:
            observed.refused(checked.refused.values())
        response = v1.ExplainResponse(model=checked.spec.model)
        with self._backend.pinned(response.model) as model:
            response.model_digest = model.digest
            if inputs:
                checked.spec.generation = model.generation
                work = Work(
                    checked.spec,
                    inputs,
                    checked.seeds,
                    deadline,
                    room,
                    watch,
                    trace=observed,
                    request_id=current_request_id(),
                    caller=turn_taker(),
                    priority=checked.priority,
                )
                results = await self._backend.explain(work)
                if len(results) != len(inputs):
                    raise InternalError(f"{len(results)} results of {len(inputs)} inputs")
        by_input = dict(zip(sound, results, strict=True))
        for index in range(len(checked.inputs)):
            response.results.append(_result(checked, index, by_input.get(index)))
        if response.ByteSize() > self._response_bytes:
            raise room.error()
        if observed is not None:
            observed.answered(response.results)
        return response

    def _watch(self, listener: Listener, methods: Sequence[str], inputs: Sequence[int]) -> Watch:
        """Return what tells `listener` in the words of the request; `inputs` are the places of those that are sent."""
        min_interval_from_proto(listener.spec)

        def tell(index: int, news: worker_pb2.ItemProgress) -> None:
            progress = v1.ExplainProgress(
                input_index=inputs[index],
                method=methods[news.method_index],
                method_index=news.method_index,
                done=news.done,
                total=news.total,
                maps=news.maps,
            )
            if progress.ByteSize() > self._response_bytes:
                del progress.maps[:]
            listener.tell(progress)

        return Watch(listener.spec, tell)


def loaded_catalog(backend: Backend) -> worker_pb2.Ready:
    """Return what there is to offer.

    Raises:
        Unavailable: the models are not loaded yet.
    """
    if backend.catalog is None:
        raise Unavailable(
            "the models are still being loaded", reason="MODEL_LOADING", retry_after=LOADING_RETRY_SECONDS
        )
    return backend.catalog


def _result(checked: CheckedRequest, index: int, answer: v1.InputResult | None) -> v1.InputResult:
    """Return what came of one input, in the words of the request; without an answer, it was refused."""
    if answer is None:
        return v1.InputResult(error=error_to_proto(checked.refused[index]))
    if answer.HasField("error"):
        moves = {} if checked.own_targets[index] else {"input.targets": "targets"}
        error = error_from_proto(answer.error).locate({**moves, "input": f"inputs[{index}]"})
        return v1.InputResult(error=error_to_proto(error))
    return answer
