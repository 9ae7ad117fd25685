"""One request for a synthesis or an inspection, from its check to its last event; knows not how the engine works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import TypeAlias

from whylight.engine.work import AnswerRoom, Watch, Work
from whylight.errors import InternalError, WhylightError
from whylight.latest import Latest
from whylight.limits import Limits
from whylight.rpc.backend import Backend
from whylight.rpc.context import turn_taker
from whylight.rpc.explaining import loaded_catalog
from whylight.rpc.request_id import current_request_id
from whylight.rpc.validate_long import CheckedLong, check_inspection, check_synthesis, locate_long
from whylight.telemetry.calls import current_request, describe
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import error_from_proto, error_to_proto
from whylight.worker.v1 import worker_pb2

PREVIEW_BYTES = 32 * 2**20
"""About how many bytes of previews may wait for the reader of one call; it misses those above it."""

_Event: TypeAlias = "tuple[int, worker_pb2.ItemPreview | v1.InputResult] | int | None"
"""A preview or the end of a target, a target of which there is progress, or the end of everything."""

_News: TypeAlias = "tuple[int, worker_pb2.ItemProgress | worker_pb2.ItemPreview | v1.InputResult]"


class LongWork:
    """Answers requests for long work through an engine. Shared by all calls; keeps nothing of them."""

    def __init__(self, backend: Backend, limits: Limits, default_model: str, response_bytes: int) -> None:
        self._backend = backend
        self._limits = limits
        self._default_model = default_model
        self._response_bytes = response_bytes

    async def synthesize(
        self, request: v1.SynthesizeRequest, deadline: float | None
    ) -> AsyncGenerator[v1.SynthesizeResponse, None]:
        """Yield the events of a synthesis, each target's result as soon as it has ended.

        The failure of a target waits until another one succeeds: where all fail, the call does. Whoever closes the
        generator early takes the work back.

        Raises:
            WhylightError: nothing of it could be made.
        """
        describe(request.model or self._default_model, (request.method.name,), len(request.targets))
        call = _Call(self._backend, check_synthesis(request, self._limits, self._default_model), self._response_bytes)
        withheld: dict[int, v1.InputResult] = {}
        told: set[int] = set()
        async with call.begun(deadline) as events:
            async for index, news in events:
                if isinstance(news, v1.InputResult):
                    withheld[index] = news
                    if told or not news.HasField("error"):
                        for place, answer in withheld.items():
                            yield v1.SynthesizeResponse(result=self._result(call, place, answer))
                        told.update(withheld)
                        withheld.clear()
                elif isinstance(news, worker_pb2.ItemPreview):
                    preview = v1.SynthesisPreview(target_index=index, step=news.step, picture=news.picture)
                    yield v1.SynthesizeResponse(preview=preview)
                else:
                    progress = v1.SynthesisProgress(
                        target_index=index, step=news.done, total_steps=news.total, losses=news.losses
                    )
                    yield v1.SynthesizeResponse(progress=progress)
            for index, answer in enumerate(call.results()):
                if index not in told:
                    yield v1.SynthesizeResponse(result=self._result(call, index, answer))

    async def inspect(
        self, request: v1.InspectRequest, deadline: float | None
    ) -> AsyncGenerator[v1.InspectResponse, None]:
        """Yield the events of an inspection. Whoever closes the generator early takes the work back.

        Raises:
            WhylightError: it failed.
        """
        describe(request.model or self._default_model, (request.method.name,), len(request.inputs))
        call = _Call(self._backend, check_inspection(request, self._limits, self._default_model), self._response_bytes)
        async with call.begun(deadline) as events:
            async for _, news in events:
                if isinstance(news, worker_pb2.ItemProgress):
                    progress = v1.InspectProgress(step=news.done, total_steps=news.total)
                    yield v1.InspectResponse(progress=progress)
            (answer,) = call.results()
            (explanation,) = answer.explained.explanations
            result = v1.InspectResult(explanation=explanation, model=call.model, model_digest=call.digest)
            yield v1.InspectResponse(result=result)

    @staticmethod
    def _result(call: _Call, index: int, answer: v1.InputResult) -> v1.SynthesisResult:
        result = v1.SynthesisResult(target_index=index)
        if answer.HasField("error"):
            result.error.CopyFrom(error_to_proto(locate_long(error_from_proto(answer.error), index)))
            return result
        (explanation,) = answer.explained.explanations
        result.explanation.CopyFrom(explanation)
        result.predictions.extend(answer.explained.predictions)
        result.model, result.model_digest = call.model, call.digest
        return result


class _Call:
    """One request under way: what waits for its reader, and what came of it."""

    def __init__(self, backend: Backend, checked: CheckedLong, response_bytes: int) -> None:
        loaded_catalog(backend)
        self.model = checked.spec.model
        self.digest = ""
        self._pin = ExitStack()
        self._backend = backend
        self._checked = checked
        self._response_bytes = response_bytes
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._newest: Latest[int, worker_pb2.ItemProgress] = Latest()
        self._preview_bytes = 0
        self._room = AnswerRoom(response_bytes)
        self._work: asyncio.Task[list[v1.InputResult]] | None = None
        self._deadline: float | None = None
        self._observed = current_request()

    def begun(self, deadline: float | None) -> _Call:
        """Return itself, to be entered."""
        self._deadline = deadline
        return self

    async def __aenter__(self) -> AsyncGenerator[_News, None]:
        checked = self._checked
        model = self._pin.enter_context(self._backend.pinned(self.model))
        self.digest = model.digest
        checked.spec.generation = model.generation
        watch = Watch(checked.progress, self._tell, self._show, self._end)
        work = Work(
            checked.spec,
            checked.inputs,
            (checked.seed,),
            self._deadline,
            self._room,
            watch,
            checked.pictures,
            checked.preview_interval,
            self._observed,
            request_id=current_request_id(),
            caller=turn_taker(),
            priority=checked.priority,
        )
        self._work = asyncio.ensure_future(self._backend.explain(work))
        self._work.add_done_callback(lambda _: self._events.put_nowait(None))
        return self._each()

    async def __aexit__(self, *_: object) -> None:
        assert self._work is not None
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
        self._pin.close()

    def results(self) -> list[v1.InputResult]:
        """Return what came of each target, once everything else has been told.

        Raises:
            WhylightError: nothing came of any.
        """
        assert self._work is not None
        try:
            results = self._work.result()
        except WhylightError as error:
            raise locate_long(error, 0) from None
        if len(results) != len(self._checked.inputs):
            raise InternalError(f"{len(results)} results of {len(self._checked.inputs)} targets")
        if all(result.HasField("error") for result in results):
            raise locate_long(error_from_proto(results[0].error), 0)
        return results

    async def _each(self) -> AsyncGenerator[_News, None]:
        while (event := await self._events.get()) is not None:
            if isinstance(event, int):
                news = self._newest.take(event)
                if news is not None:
                    yield event, news
            else:
                yield event
                if isinstance(event[1], worker_pb2.ItemPreview):
                    self._preview_bytes -= event[1].ByteSize()

    def _tell(self, index: int, progress: worker_pb2.ItemProgress) -> None:
        if self._newest.put(index, progress):
            self._events.put_nowait(index)

    def _show(self, index: int, preview: worker_pb2.ItemPreview) -> None:
        size = preview.ByteSize()
        if size <= self._response_bytes and self._preview_bytes + size <= max(PREVIEW_BYTES, size):
            self._preview_bytes += size
            self._events.put_nowait((index, preview))

    def _end(self, index: int, outcome: v1.InputResult | WhylightError) -> None:
        if self._room.full:  # the call fails as a whole, and what was not begun of it is taken back
            return
        if isinstance(outcome, WhylightError):
            outcome = v1.InputResult(error=error_to_proto(outcome))
        if self._observed is not None:
            self._observed.answered((outcome,))
        self._events.put_nowait((index, outcome))
