"""The asyncio client: sends what the rest of the package builds; knows neither fields of messages nor pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar, overload

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2

from whylight import wire
from whylight.client import queries
from whylight.client.async_stream import Requests, stream_answers
from whylight.client.base import BaseClient
from whylight.client.catalog import MethodInfo, MetricInfo, ModelInfo, PluginInfo, ServerInfo
from whylight.client.connection import Connection
from whylight.client.conversation import MAX_IN_FLIGHT, Conversation
from whylight.client.evaluations import build_evaluation, read_evaluation
from whylight.client.failures import error_from_call
from whylight.client.long_requests import LongRequest, build_inspection, build_synthesis
from whylight.client.pictures import Image
from whylight.client.requests import (
    Answer,
    Images,
    Input,
    Methods,
    Metrics,
    Request,
    Result,
    Targets,
    build_request,
    raise_first,
    read_response,
    single_requests,
)
from whylight.errors import Unavailable
from whylight.evaluation import Evaluation
from whylight.explanation import Explained
from whylight.made import InspectionEvent, SynthesisEvent
from whylight.outputs import Output
from whylight.priority import Priority
from whylight.progress import Progress

Answered = TypeVar("Answered")


class AsyncClient(BaseClient):
    """The connection to a whylight server for asyncio; made as `BaseClient` says. Belongs to one event loop."""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls that are still open are cancelled."""
        await self._channel.close()

    @overload
    async def explain(
        self,
        images: Image | Input,
        method: Methods = ...,
        *,
        model: str = ...,
        target: Targets = ...,
        options: Mapping[str, Any] | None = ...,
        outputs: Sequence[Output] | None = ...,
        seed: int | None = ...,
        top_predictions: int = ...,
        priority: Priority | str = ...,
        deadline: float | None = ...,
        raise_errors: bool = ...,
    ) -> Explained: ...

    @overload
    async def explain(
        self,
        images: list[Image | Input] | tuple[Image | Input, ...],
        method: Methods = ...,
        *,
        model: str = ...,
        target: Targets = ...,
        options: Mapping[str, Any] | None = ...,
        outputs: Sequence[Output] | None = ...,
        seed: int | None = ...,
        top_predictions: int = ...,
        priority: Priority | str = ...,
        deadline: float | None = ...,
        raise_errors: bool = ...,
    ) -> list[Result]: ...

    async def explain(
        self,
        images: Any,
        method: Methods = "grad-cam",
        *,
        model: str = "",
        target: Targets = None,
        options: Mapping[str, Any] | None = None,
        outputs: Sequence[Output] | None = None,
        seed: int | None = None,
        top_predictions: int = 5,
        priority: Priority | str = Priority.INTERACTIVE,
        deadline: float | None = None,
        raise_errors: bool = False,
    ) -> Any:
        """Explain one image, or a list of images, in one call: as `whylight.Client.explain`."""
        request = Request(images, method, model, target, options, outputs, seed, top_predictions, priority=priority)
        message = await asyncio.to_thread(build_request, request, self._max_bytes)  # reads files
        answer = read_response(request, await self._send("Explain", message, deadline))
        if request.single or raise_errors:
            raise_first(answer)
        return answer

    async def explain_many(
        self,
        images: Images,
        method: Methods = "grad-cam",
        *,
        model: str = "",
        target: Targets = None,
        options: Mapping[str, Any] | None = None,
        outputs: Sequence[Output] | None = None,
        seed: int | None = None,
        top_predictions: int = 5,
        priority: Priority | str = Priority.INTERACTIVE,
        deadline: float | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AsyncGenerator[tuple[int, Result], None]:
        """Explain any number of images over one open call: as `whylight.Client.explain_many`."""
        settings = Request(
            (),
            method,
            model,
            target,
            options,
            outputs,
            seed,
            top_predictions,
            on_progress=on_progress,
            priority=priority,
        )
        requests = single_requests(images, settings)
        async with aclosing(self.stream(requests, deadline=deadline, max_in_flight=max_in_flight)) as answers:
            async for name, answer in answers:
                assert not isinstance(answer, list)  # each request has one image
                yield int(name), answer

    def stream(
        self, requests: Requests, *, deadline: float | None = None, max_in_flight: int = MAX_IN_FLIGHT
    ) -> AsyncGenerator[tuple[str, Answer], None]:
        """Send requests over one open call and yield ids and answers as they are ready: as `whylight.Client.stream`.

        `requests` may be an asynchronous iterable. To leave the loop early, put it inside ``contextlib.aclosing(...)``,
        so that what is still open is taken back at once.
        """
        return stream_answers(
            self._rpcs["StreamExplain"],
            requests,
            self._stream_settings(deadline),
            Conversation(self._max_bytes),
            max_in_flight,
        )

    async def synthesize(
        self,
        method: str,
        target: Targets = None,
        *,
        pictures: Image | Sequence[Image] = (),
        model: str = "",
        options: Mapping[str, Any] | None = None,
        size: tuple[int, int] | None = None,
        outputs: Sequence[Output] | None = None,
        seed: int | None = None,
        preview_interval: int = 0,
        progress_interval: float | None = None,
        top_predictions: int = 5,
        priority: Priority | str = Priority.INTERACTIVE,
        deadline: float | None = None,
    ) -> AsyncGenerator[SynthesisEvent, None]:
        """Make pictures of what the model has learned: as `whylight.Client.synthesize`.

        To leave the loop early, put the iterator inside ``contextlib.aclosing(...)``, so that the work ends at once.
        """
        request = LongRequest(method, target, pictures, model, options, seed, progress_interval, priority)
        message = await asyncio.to_thread(  # reads files
            build_synthesis,
            request,
            size=size,
            outputs=outputs,
            preview_interval=preview_interval,
            top_predictions=top_predictions,
            max_bytes=self._max_bytes,
        )
        async with aclosing(self._events("Synthesize", message, deadline)) as events:
            async for event in events:
                yield wire.synthesis_event_from_proto(event)

    async def inspect(
        self,
        method: str,
        pictures: Image | Sequence[Image] = (),
        *,
        target: Targets = None,
        model: str = "",
        options: Mapping[str, Any] | None = None,
        seed: int | None = None,
        progress_interval: float | None = None,
        priority: Priority | str = Priority.INTERACTIVE,
        deadline: float | None = None,
    ) -> AsyncGenerator[InspectionEvent, None]:
        """Show what the model sees inside: as `whylight.Client.inspect`."""
        request = LongRequest(method, target, pictures, model, options, seed, progress_interval, priority)
        message = await asyncio.to_thread(build_inspection, request, max_bytes=self._max_bytes)  # reads files
        async with aclosing(self._events("Inspect", message, deadline)) as events:
            async for event in events:
                yield wire.inspection_event_from_proto(event)

    async def methods(self, *, deadline: float | None = None) -> list[MethodInfo]:
        """Return the methods, in the order of their names, without the schemas of their options."""
        return await self._ask(queries.list_methods(), deadline)

    async def method(self, name: str, *, deadline: float | None = None) -> MethodInfo:
        """Return one method, with the JSON schema of its options."""
        return await self._ask(queries.get_method(name), deadline)

    async def evaluate(
        self,
        images: Image | Input | list[Image | Input] | tuple[Image | Input, ...],
        methods: Methods,
        metrics: Metrics = ("insertion", "deletion", "road"),
        *,
        model: str = "",
        target: Targets = None,
        outputs: Sequence[Output] = (),
        seed: int | None = None,
        top_predictions: int = 5,
        priority: Priority | str = Priority.INTERACTIVE,
        deadline: float | None = None,
    ) -> Evaluation:
        """Measure how far the maps of several methods can be trusted, and rank the methods, in one call.

        Args:
            images: one image or a list of them, as `explain` takes them.
            methods: names of methods, or `MethodCall`s, which have options and seeds of their own.
            metrics: names of metrics, or `MetricCall`s.
            model: name of the model; empty means the server's default.
            target: as for `explain`.
            outputs: what to make of each map; nothing unless given.
            seed: seed of the methods that are given by name; None means that the server draws one.
            top_predictions: how many of the highest predictions to return.
            priority: "bulk" for what nobody waits for; it is served beside interactive calls by a share.
            deadline: seconds that the call may take, retries included; None means the client's own.

        Returns:
            For each image its explanations with their measurements, or the exception that stands in their place, and
            the rankings of the methods.

        Raises:
            WhylightError: the call as a whole failed, or no image could be explained.
        """
        request = Request(
            images,
            methods,
            model,
            target,
            outputs=outputs,
            seed=seed,
            top_predictions=top_predictions,
            priority=priority,
        )
        message = build_evaluation(request, metrics, self._max_bytes)
        return read_evaluation(request, await self._send("Evaluate", message, deadline))

    async def metrics(self, *, deadline: float | None = None) -> list[MetricInfo]:
        """Return the metrics of maps, in the order of their names, without the schemas of their options."""
        return await self._ask(queries.list_metrics(), deadline)

    async def metric(self, name: str, *, deadline: float | None = None) -> MetricInfo:
        """Return one metric, with the JSON schema of its options."""
        return await self._ask(queries.get_metric(name), deadline)

    async def models(self, *, deadline: float | None = None) -> list[ModelInfo]:
        """Return the models, in the order of their names, without layers and labels."""
        return await self._ask(queries.list_models(), deadline)

    async def model(self, name: str = "", *, deadline: float | None = None) -> ModelInfo:
        """Return one model, with its layers and labels; an empty name means the server's default."""
        return await self._ask(queries.get_model(name), deadline)

    async def plugins(self, *, deadline: float | None = None) -> list[PluginInfo]:
        """Return the plugins that the server found, also those that it does not use, and why."""
        return await self._ask(queries.list_plugins(), deadline)

    async def server_info(self, *, deadline: float | None = None) -> ServerInfo:
        """Return versions, devices and limits of the server."""
        return await self._ask(queries.get_server_info(), deadline)

    async def wait_ready(self, timeout: float = 60.0, *, service: str = "whylight.v1.ExplanationService") -> None:
        """Wait until the server listens and says that it serves: as `whylight.Client.wait_ready`."""
        request = health_pb2.HealthCheckRequest(service=service)
        call = self._rpcs["Watch"](request, wait_for_ready=True, **self._settings(timeout))
        try:
            async for answer in call:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            raise error_from_call(error) from error
        finally:
            call.cancel()
        raise Unavailable("the server ended the watch on its health")

    def _open_channel(self, connection: Connection) -> aio.Channel:
        settings = connection.channel_options()
        if connection.credentials is None:
            return aio.insecure_channel(connection.address, settings)
        return aio.secure_channel(connection.address, connection.credentials, settings)

    async def _send(self, rpc: str, message: Any, deadline: float | None) -> Any:
        try:
            return await self._rpcs[rpc](message, **self._settings(deadline))
        except grpc.RpcError as error:
            raise error_from_call(error) from error

    async def _events(self, rpc: str, message: Any, deadline: float | None) -> AsyncGenerator[Any, None]:
        call = self._rpcs[rpc](message, **self._stream_settings(deadline))
        try:
            async for event in call:
                yield event
        except grpc.RpcError as error:
            raise error_from_call(error) from error
        finally:
            call.cancel()

    async def _ask(self, steps: queries.Steps[Answered], deadline: float | None) -> Answered:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                result: Answered = done.value
                return result
            answer = await self._send(step.rpc, step.message, deadline)
