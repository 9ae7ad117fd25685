"""The blocking client: sends what the rest of the package builds; knows neither fields of messages nor pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, TypeVar, overload

import grpc
from grpc_health.v1 import health_pb2

from whylight import wire
from whylight.client import queries
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
from whylight.client.sync_stream import stream_answers
from whylight.errors import Unavailable
from whylight.evaluation import Evaluation
from whylight.explanation import Explained
from whylight.made import InspectionEvent, SynthesisEvent
from whylight.outputs import Output
from whylight.priority import Priority
from whylight.progress import Progress

Answered = TypeVar("Answered")


class Client(BaseClient):
    """The blocking connection to a whylight server; made as `BaseClient` says. Many threads may share one."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls that are still open are cancelled."""
        self._channel.close()

    @overload
    def explain(
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
    def explain(
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

    def explain(
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
        """Explain one image, or a list of images, in one call.

        Args:
            images: a path, the bytes of a file, a Pillow image, a uint8 array `[H, W, 3]`, a float array `[C, H, W]`
                (the model's normalised input), an `Input` with targets of its own; or a list of them.
            method: name of a method, a `MethodCall`, or a list of them. Each gives one explanation for every target.
            model: name of the model; empty means the server's default.
            target: a class index, a label, a `Target`, or a list of them; None means the top prediction of each image.
            options: options of the methods that are given by name.
            outputs: what to make of each map; None means one native-size float32 map.
            seed: seed of the methods that are given by name; None means that the server draws one.
            top_predictions: how many of the highest predictions to return.
            priority: "bulk" for what nobody waits for; it is served beside interactive calls by a share.
            deadline: seconds that the call may take, retries included; None means the client's own.
            raise_errors: raise the first error of a list of images, in place of returning it.

        Returns:
            For one image, what was found out about it. For a list, a list in the same order, in which an exception
            stands in the place of every image that could not be explained: one bad image harms no other.

        Raises:
            WhylightError: the call as a whole failed, or the one image could not be explained.
        """
        request = Request(images, method, model, target, options, outputs, seed, top_predictions, priority=priority)
        answer = read_response(request, self._send("Explain", build_request(request, self._max_bytes), deadline))
        if request.single or raise_errors:
            raise_first(answer)
        return answer

    def explain_many(
        self,
        images: Iterable[Image | Input],
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
    ) -> Generator[tuple[int, Result], None, None]:
        """Explain any number of images over one open call, as `explain` does, and yield results as they are ready.

        `on_progress` is called with how far the image of `Progress.input_index` has come, as `Request` says.

        Yields:
            The index of an image and its answer, or the exception that stands in its place. Not in order.
        """
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
        for name, answer in self.stream(requests, deadline=deadline, max_in_flight=max_in_flight):
            assert not isinstance(answer, list)  # each request has one image
            yield int(name), answer

    def stream(
        self, requests: Iterable[Request], *, deadline: float | None = None, max_in_flight: int = MAX_IN_FLIGHT
    ) -> Generator[tuple[str, Answer], None, None]:
        """Send requests over one open call and yield their answers as they are ready, which need not be in order.

        `requests` is read in a thread of gRPC's, at most `max_in_flight` ahead of the answers that were taken. Close
        the iterator to take back what is still open.

        Args:
            requests: what to ask. Those with an empty `id` get the next number.
            deadline: seconds that the whole call may take; None means for ever.
            max_in_flight: how many requests may be open at once.

        Yields:
            The id of a request and what came of it: a result for one image, a list of results for a list of images, or
            an exception for a request that could not be tried at all. One such request does not end the stream.

        Raises:
            WhylightError: the call itself broke off; requests whose ids were not yielded have no answer.
            Exception: whatever reading `requests` raised, after the answers to those before.
        """
        return stream_answers(
            self._rpcs["StreamExplain"],
            requests,
            self._stream_settings(deadline),
            Conversation(self._max_bytes),
            max_in_flight,
        )

    def synthesize(
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
    ) -> Generator[SynthesisEvent, None, None]:
        """Make pictures of what the model has learned, one for each target, and yield what happens as it happens.

        The work begins with the first event that is asked for; closing the iterator takes it back.

        Args:
            method: name of a method, such as "activation-maximization".
            target: what a picture is to show: a class index, a label, a `Target`, or a list of them.
            pictures: those that the method starts from or works towards, in its order; or the only one.
            model: name of the model; empty means the server's default.
            options: options of the method.
            size: (height, width) of the pictures; None means that of the model's input.
            outputs: what to make of each result; None means a PNG.
            seed: seed for every target; None means that the server draws one for each.
            preview_interval: steps between two previews; 0 means none.
            progress_interval: least seconds between two events of progress of a target; None is a quarter of a second.
            top_predictions: how many of the highest predictions to return with each result.
            priority: "bulk" for what nobody waits for; it is served beside interactive calls by a share.
            deadline: seconds that the call may take; None means for ever.

        Yields:
            `SynthesisProgress` and `SynthesisPreview`, and for each target, as soon as it has ended, `SynthesisResult`
            or, where others have a result, `SynthesisFailure`.

        Raises:
            WhylightError: nothing could be made.
        """
        request = LongRequest(method, target, pictures, model, options, seed, progress_interval, priority)
        message = build_synthesis(
            request,
            size=size,
            outputs=outputs,
            preview_interval=preview_interval,
            top_predictions=top_predictions,
            max_bytes=self._max_bytes,
        )
        with closing(self._events("Synthesize", message, deadline)) as events:
            yield from map(wire.synthesis_event_from_proto, events)

    def inspect(
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
    ) -> Generator[InspectionEvent, None, None]:
        """Show what the model sees inside, and yield what happens as it happens: `InspectionProgress`, then the result.

        `pictures` are the inputs to look at, or the only one; the other arguments are as those of `synthesize`. Closing
        the iterator takes the work back.

        Raises:
            WhylightError: it failed.
        """
        request = LongRequest(method, target, pictures, model, options, seed, progress_interval, priority)
        message = build_inspection(request, max_bytes=self._max_bytes)
        with closing(self._events("Inspect", message, deadline)) as events:
            yield from map(wire.inspection_event_from_proto, events)

    def methods(self, *, deadline: float | None = None) -> list[MethodInfo]:
        """Return the methods, in the order of their names, without the schemas of their options."""
        return self._ask(queries.list_methods(), deadline)

    def method(self, name: str, *, deadline: float | None = None) -> MethodInfo:
        """Return one method, with the JSON schema of its options."""
        return self._ask(queries.get_method(name), deadline)

    def evaluate(
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
        return read_evaluation(request, self._send("Evaluate", message, deadline))

    def metrics(self, *, deadline: float | None = None) -> list[MetricInfo]:
        """Return the metrics of maps, in the order of their names, without the schemas of their options."""
        return self._ask(queries.list_metrics(), deadline)

    def metric(self, name: str, *, deadline: float | None = None) -> MetricInfo:
        """Return one metric, with the JSON schema of its options."""
        return self._ask(queries.get_metric(name), deadline)

    def models(self, *, deadline: float | None = None) -> list[ModelInfo]:
        """Return the models, in the order of their names, without layers and labels."""
        return self._ask(queries.list_models(), deadline)

    def model(self, name: str = "", *, deadline: float | None = None) -> ModelInfo:
        """Return one model, with its layers and labels; an empty name means the server's default."""
        return self._ask(queries.get_model(name), deadline)

    def plugins(self, *, deadline: float | None = None) -> list[PluginInfo]:
        """Return the plugins that the server found, also those that it does not use, and why."""
        return self._ask(queries.list_plugins(), deadline)

    def server_info(self, *, deadline: float | None = None) -> ServerInfo:
        """Return versions, devices and limits of the server."""
        return self._ask(queries.get_server_info(), deadline)

    def wait_ready(self, timeout: float = 60.0, *, service: str = "whylight.v1.ExplanationService") -> None:
        """Wait until the server listens and says that it serves, by watching its health (grpc.health.v1).

        Raises:
            DeadlineExceeded: it did not within `timeout` seconds.
            WhylightError: the connection broke while waiting.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        call = self._rpcs["Watch"](request, wait_for_ready=True, **self._settings(timeout))
        try:
            for answer in call:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            raise error_from_call(error) from error
        finally:
            call.cancel()
        raise Unavailable("the server ended the watch on its health")

    def _open_channel(self, connection: Connection) -> grpc.Channel:
        settings = connection.channel_options()
        if connection.credentials is None:
            return grpc.insecure_channel(connection.address, settings)
        return grpc.secure_channel(connection.address, connection.credentials, settings)

    def _send(self, rpc: str, message: Any, deadline: float | None) -> Any:
        try:
            return self._rpcs[rpc](message, **self._settings(deadline))
        except grpc.RpcError as error:
            raise error_from_call(error) from error

    def _events(self, rpc: str, message: Any, deadline: float | None) -> Generator[Any, None, None]:
        call = self._rpcs[rpc](message, **self._stream_settings(deadline))
        try:
            yield from call
        except grpc.RpcError as error:
            raise error_from_call(error) from error
        finally:
            call.cancel()

    def _ask(self, steps: queries.Steps[Answered], deadline: float | None) -> Answered:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                result: Answered = done.value
                return result
            answer = self._send(step.rpc, step.message, deadline)
