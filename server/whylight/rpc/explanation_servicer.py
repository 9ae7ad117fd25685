"""ExplanationService: what its calls do with requests and answers; knows nothing of how one is answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from whylight.limits import Limits
from whylight.rpc.admission import Admission
from whylight.rpc.backend import Backend
from whylight.rpc.context import Context, deadline_of
from whylight.rpc.evaluating import evaluate
from whylight.rpc.explaining import Explaining
from whylight.rpc.long_work import LongWork
from whylight.rpc.stream import Stream
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc


class ExplanationServicer(explanation_pb2_grpc.ExplanationServiceServicer):
    """Answers ExplanationService. Raises typed errors; the interceptor makes statuses of them."""

    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        limits: Limits,
        *,
        default_model: str,
        response_bytes: int,
        stream_window: int,
    ) -> None:
        self._admission = admission
        self._explaining = Explaining(backend, limits, default_model, response_bytes)
        self._long_work = LongWork(backend, limits, default_model, response_bytes)
        self._stream_window = stream_window

    async def Explain(self, request: v1.ExplainRequest, context: Context) -> v1.ExplainResponse:
        """Explain one or many inputs."""
        with self._admission.call():
            return await self._explaining.explain(request, deadline_of(context))

    async def Evaluate(self, request: v1.EvaluateRequest, context: Context) -> v1.EvaluateResponse:
        """Measure the maps of several methods, and rank them."""
        with self._admission.call():
            return await evaluate(self._explaining, request, deadline_of(context))

    def StreamExplain(
        self, request_iterator: AsyncIterator[v1.StreamExplainRequest], context: Context
    ) -> AsyncGenerator[v1.StreamExplainResponse, None]:
        """Explain a stream of requests, each answered when it is ready."""
        stream = Stream(self._explaining, self._admission, self._stream_window, deadline_of(context))
        return stream.answers(request_iterator)

    async def Synthesize(
        self, request: v1.SynthesizeRequest, context: Context
    ) -> AsyncGenerator[v1.SynthesizeResponse, None]:
        """Make pictures of what a model has learned."""
        with self._admission.call():
            async with aclosing(self._long_work.synthesize(request, deadline_of(context))) as events:
                async for event in events:
                    yield event

    async def Inspect(self, request: v1.InspectRequest, context: Context) -> AsyncGenerator[v1.InspectResponse, None]:
        """Show what a model sees inside."""
        with self._admission.call():
            async with aclosing(self._long_work.inspect(request, deadline_of(context))) as events:
                async for event in events:
                    yield event
