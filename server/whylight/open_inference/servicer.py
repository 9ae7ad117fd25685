"""GRPCInferenceService: what its calls do with requests and answers; knows nothing of how one is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

import whylight
from whylight.engine.work import AnswerRoom
from whylight.errors import WhylightError
from whylight.limits import Limits
from whylight.open_inference import messages as oip
from whylight.open_inference.answers import write_answer
from whylight.open_inference.metadata import config, metadata
from whylight.open_inference.names import everything, find
from whylight.open_inference.requests import Question, read_request
from whylight.open_inference.statistics import Statistics
from whylight.open_inference.stream import InferStream
from whylight.rpc.admission import Admission
from whylight.rpc.backend import Backend
from whylight.rpc.context import Context, deadline_of
from whylight.rpc.explaining import Explaining, loaded_catalog
from whylight.telemetry.calls import streamed_request
from whylight.v1 import explanation_pb2 as v1

EXTENSIONS = ("parameters", "model_configuration", "model_repository(index)", "statistics", "streaming")

WORDY_RESULTS = 16
"""Results whose facts are written as JSON at most while other calls wait; of more, beside them."""


class OpenInferenceServicer:
    """Answers GRPCInferenceService. Raises typed errors; the interceptor makes statuses of them.

    `serving` tells whether the server takes work, as health does.
    """

    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        limits: Limits,
        *,
        serving: Callable[[], bool],
        default_model: str,
        response_bytes: int,
        stream_window: int,
    ) -> None:
        self._backend = backend
        self._admission = admission
        self._limits = limits
        self._serving = serving
        self._response_bytes = response_bytes
        self._stream_window = stream_window
        self._statistics = Statistics()
        self._explaining = Explaining(backend, limits, default_model, response_bytes)

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        """Tell that the server is alive."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        """Tell whether the server takes work."""
        return oip.ServerReadyResponse(ready=self._serving())

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        """Tell whether a model can be asked. One that there is not is not ready: probes without a token may ask, and
        learn no names.
        """
        if not self._serving() or self._backend.catalog is None:
            return oip.ModelReadyResponse(ready=False)
        try:
            asked = find(self._backend.catalog, request.name, request.version)
        except WhylightError:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=not asked.obstacle)

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        """Describe the server."""
        return oip.ServerMetadataResponse(name="whylight", version=whylight.__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        """Describe the tensors of a model."""
        return metadata(find(loaded_catalog(self._backend), request.name, request.version, field="name"))

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        """Describe the tensors of a model in Triton's words."""
        asked = find(loaded_catalog(self._backend), request.name, request.version, field="name")
        return config(asked, self._limits.inputs)

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        """Count what came of the requests of this service for one model, or for all."""
        catalog = loaded_catalog(self._backend)
        every = [find(catalog, request.name, request.version, field="name")] if request.name else everything(catalog)
        return oip.ModelStatisticsResponse(model_stats=map(self._statistics.of, every))

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        """List the models, and the methods of each."""
        response = oip.RepositoryIndexResponse()
        serving = self._serving()
        for asked in everything(loaded_catalog(self._backend)):
            reason = asked.obstacle or ("" if serving else "no work is taken just now")
            if reason and request.ready:
                continue
            state = "UNAVAILABLE" if reason else "READY"
            response.models.add(name=asked.name, version=asked.version, state=state, reason=reason)
        return response

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        """Explain the pictures of one request."""
        with self._admission.call():
            return await self._infer(request, deadline_of(context))

    def ModelStreamInfer(
        self, request_iterator: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> AsyncGenerator[oip.ModelStreamInferResponse, None]:
        """Explain a stream of requests, answered in their order."""
        deadline = deadline_of(context)

        async def answer(request: oip.ModelInferRequest) -> oip.ModelInferResponse:
            with streamed_request(), self._admission.call():
                return await self._infer(request, deadline)

        return InferStream(answer, self._admission, self._stream_window).answers(request_iterator)

    async def _infer(self, request: oip.ModelInferRequest, deadline: float | None) -> oip.ModelInferResponse:
        began = time.perf_counter_ns()
        question = read_request(request, loaded_catalog(self._backend), self._limits)
        try:
            explained = await self._explain(question, deadline)
            if question.wanted.wordy and len(explained.results) > WORDY_RESULTS:
                answer = await asyncio.to_thread(write_answer, question, explained)
            else:
                answer = write_answer(question, explained)
            if answer.ByteSize() > self._response_bytes:
                raise AnswerRoom(self._response_bytes).error()
        except WhylightError:
            self._statistics.failed(question.asked, time.perf_counter_ns() - began)
            raise
        self._statistics.answered(question.asked, explained, time.perf_counter_ns() - began)
        return answer

    async def _explain(self, question: Question, deadline: float | None) -> v1.ExplainResponse:
        timeout = question.parameters.timeout
        if timeout is not None:
            own = asyncio.get_running_loop().time() + timeout
            deadline = own if deadline is None else min(deadline, own)
        try:
            return await self._explaining.explain(question.request, deadline)
        except WhylightError as error:
            raise question.localised(error) from None


def add_to_server(servicer: OpenInferenceServicer, server: grpc.aio.Server) -> None:
    """Register the service. Calls of the protocol's extensions that it has not are UNIMPLEMENTED, as gRPC says."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in oip.POOL.FindServiceByName(oip.SERVICE).methods:
        make = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        parse = getattr(oip, method.input_type.name).FromString
        handlers[method.name] = make(getattr(servicer, method.name), parse, lambda answer: answer.SerializeToString())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(oip.SERVICE, handlers),))
