"""ExplanationService: what its calls do with requests and answers; knows nothing of how one is answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from whylight.errors import Unsupported
from whylight.limits import Limits
from whylight.rpc.admission import Admission
from whylight.rpc.backend import Backend
from whylight.rpc.catalog_servicer import find
from whylight.rpc.context import Context, deadline_of
from whylight.rpc.explaining import Explaining, loaded_catalog
from whylight.rpc.stream import Stream
from whylight.rpc.validate import check_synthesis
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
        self._backend = backend
        self._admission = admission
        self._limits = limits
        self._default_model = default_model
        self._explaining = Explaining(backend, limits, default_model, response_bytes)
        self._stream_window = stream_window

    async def Explain(self, request: v1.ExplainRequest, context: Context) -> v1.ExplainResponse:
        """Explain one or many inputs."""
        with self._admission.call():
            return await self._explaining.explain(request, deadline_of(context))

    def StreamExplain(
        self, request_iterator: AsyncIterator[v1.StreamExplainRequest], context: Context
    ) -> AsyncGenerator[v1.StreamExplainResponse, None]:
        """Explain a stream of requests, each answered when it is ready."""
        stream = Stream(self._explaining, self._admission, self._stream_window, deadline_of(context))
        return stream.answers(request_iterator)

    async def Synthesize(self, request: v1.SynthesizeRequest, context: Context) -> AsyncIterator[v1.SynthesizeResponse]:
        """Refuse the request, and say exactly why: no method that this server's plugins offer is a synthesis."""
        with self._admission.call():
            catalog = loaded_catalog(self._backend)
            check_synthesis(request, self._limits)
            find(catalog.models, request.model or self._default_model, kind="model", field="model")
            method = find(catalog.methods, request.method.name, kind="method", field="method.name")
            for response in _no_synthesis(method.name):
                yield response


def _no_synthesis(method: str) -> Iterator[v1.SynthesizeResponse]:
    raise Unsupported(
        f"{method!r} is no synthesis method; CatalogService.ListMethods tells which question each answers",
        field="method.name",
        metadata={"method": method},
    )
