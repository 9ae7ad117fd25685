"""One ModelStreamInfer call: requests worked on at once, answered in their order; knows not how one is answered.

A request is taken only while fewer than the stream's window are open, and one is open until its answer has been handed
to the transport: neither a fast writer nor a slow reader makes the server hold more than a window of either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from whylight.errors import WhylightError
from whylight.open_inference.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from whylight.rpc.admission import Admission, draining_error
from whylight.rpc.errors import cut, internal_error

log = logging.getLogger(__name__)

ERROR_BYTES = 1024
"""Bytes of an error's text in a stream at most."""


@dataclass(frozen=True)
class _End:
    """No more requests are read, because of `error` or because there are none."""

    error: Exception | None = None


class InferStream:
    """The state of one call. `answer` answers one request, or raises why not."""

    def __init__(
        self, answer: Callable[[ModelInferRequest], Awaitable[ModelInferResponse]], admission: Admission, window: int
    ) -> None:
        self._answer_one = answer
        self._admission = admission
        self._window = asyncio.Semaphore(window)
        self._answers: asyncio.Queue[asyncio.Task[ModelStreamInferResponse] | _End] = asyncio.Queue()

    async def answers(
        self, requests: AsyncIterator[ModelInferRequest]
    ) -> AsyncGenerator[ModelStreamInferResponse, None]:
        """Yield the answers in the order of the requests, until the client has no more.

        Whoever closes the generator early takes back what is still open.

        Raises:
            InvalidInput: the client sent what is no request at all. What came before has been answered.
            Unavailable: the server is draining. What was open has been answered before.
        """
        reading = asyncio.ensure_future(self._read(requests))
        closing = asyncio.ensure_future(self._end_when_draining())
        open_tasks: list[asyncio.Future[None] | asyncio.Task[ModelStreamInferResponse]] = [reading, closing]
        try:
            while not isinstance(answer := await self._answers.get(), _End):
                open_tasks.append(answer)
                yield await answer
                open_tasks.remove(answer)
                self._window.release()
            if answer.error is not None:
                raise answer.error
        finally:
            reading.cancel()
            while not self._answers.empty():
                if not isinstance(left := self._answers.get_nowait(), _End):
                    open_tasks.append(left)
            for task in open_tasks:
                task.cancel()
            await asyncio.gather(*open_tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        try:
            while True:
                await self._window.acquire()
                self._answers.put_nowait(asyncio.ensure_future(self._answer(await anext(requests))))
        except StopAsyncIteration:
            self._answers.put_nowait(_End())
        except WhylightError as error:
            self._answers.put_nowait(_End(error))

    async def _end_when_draining(self) -> None:
        await self._admission.wait_closed()
        self._answers.put_nowait(_End(draining_error()))

    async def _answer(self, request: ModelInferRequest) -> ModelStreamInferResponse:
        try:
            return ModelStreamInferResponse(infer_response=await self._answer_one(request))
        except WhylightError as error:
            return _failure(request, error)
        except Exception:
            log.exception("an error that nothing expects, in a stream")
            return _failure(request, internal_error())


def _failure(request: ModelInferRequest, error: WhylightError) -> ModelStreamInferResponse:
    """Return the answer to a request that failed. What a status would carry is in the parameters beside its id."""
    response = ModelStreamInferResponse(error_message=cut(f"{error.reason}: {error.message}", ERROR_BYTES))
    response.infer_response.model_name = request.model_name
    response.infer_response.id = request.id
    parameters = response.infer_response.parameters
    parameters["code"].int64_param = int(error.code)
    parameters["reason"].string_param = error.reason
    if error.violations:
        parameters["field"].string_param = cut(error.violations[0].field, ERROR_BYTES)
    if error.retry_after is not None:
        parameters["retry_after_ms"].int64_param = round(max(0.0, error.retry_after) * 1000)
    return response
