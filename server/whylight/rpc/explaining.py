"""One ExplainRequest from its check to its answer; knows neither calls and streams nor how the engine works."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from whylight.engine.work import AnswerRoom, Work
from whylight.errors import InternalError, Unavailable, WhylightError
from whylight.limits import Limits
from whylight.rpc.backend import Backend
from whylight.rpc.validate import CheckedRequest, check_request, locate
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import error_from_proto, error_to_proto
from whylight.worker.v1 import worker_pb2

LOADING_RETRY_SECONDS = 2.0
"""When a client should come again while models are loaded."""

Result = TypeVar("Result")


class Explaining:
    """Answers requests through an engine. Shared by all calls; keeps nothing of them."""

    def __init__(self, backend: Backend, limits: Limits, default_model: str, response_bytes: int) -> None:
        self._backend = backend
        self._limits = limits
        self._default_model = default_model
        self._response_bytes = response_bytes

    async def explain(self, request: v1.ExplainRequest, deadline: float | None) -> v1.ExplainResponse:
        """Answer a request, by `deadline` on the clock of the running loop.

        Every method is work of its own for the engine, for all inputs that are in order.

        Raises:
            WhylightError: nothing of the request can be tried.
        """
        catalog = loaded_catalog(self._backend)
        checked = check_request(request, self._limits, self._default_model)
        sound = [index for index in range(len(checked.inputs)) if index not in checked.refused]
        inputs = [checked.inputs[index] for index in sound]
        answers: Sequence[list[v1.InputResult]] = ()
        room = AnswerRoom(self._response_bytes)
        if inputs:
            answers = await all_or_none(
                self._by_method(method, Work(spec, inputs, seed, deadline, room))
                for method, (spec, seed) in enumerate(zip(checked.specs, checked.seeds, strict=True))
            )
        response = v1.ExplainResponse(model=checked.specs[0].model)
        response.model_digest = next((model.digest for model in catalog.models if model.name == response.model), "")
        by_input = dict(zip(sound, zip(*answers, strict=True), strict=True))
        for index in range(len(checked.inputs)):
            response.results.append(_result(checked, index, by_input.get(index, ())))
        if response.ByteSize() > self._response_bytes:
            raise room.error()
        return response

    async def _by_method(self, method: int, work: Work) -> list[v1.InputResult]:
        try:
            results = await self._backend.explain(work)
        except WhylightError as error:
            raise locate(error, method=method) from None
        if len(results) != len(work.inputs):
            raise InternalError(f"{len(results)} results of {len(work.inputs)} inputs")
        return results


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


async def all_or_none(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Do several things at once. When one fails, or the caller is cancelled, all of them are cancelled and over."""
    coroutines = list(work)
    if len(coroutines) == 1:
        return [await coroutines[0]]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _result(checked: CheckedRequest, index: int, answers: Sequence[v1.InputResult]) -> v1.InputResult:
    """Return the results of one input by all methods as one, methods-major. Where one method fails, the input fails."""
    if index in checked.refused:
        return v1.InputResult(error=error_to_proto(checked.refused[index]))
    for method, answer in enumerate(answers):
        if answer.HasField("error"):
            error = locate(
                error_from_proto(answer.error), method=method, index=index, own_targets=checked.own_targets[index]
            )
            return v1.InputResult(error=error_to_proto(error))
    first, *others = answers
    for other in others:
        first.explained.explanations.extend(other.explained.explanations)
    return first
