"""The blocking client: sends what the rest of the package builds; knows neither fields of messages nor pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, overload

import grpc
from grpc_health.v1 import health_pb2

from whylight.client import queries
from whylight.client.base import BaseClient
from whylight.client.catalog import MethodInfo, ModelInfo, PluginInfo, ServerInfo
from whylight.client.connection import Connection
from whylight.client.conversation import Conversation
from whylight.client.failures import error_from_call
from whylight.client.pictures import Image
from whylight.client.requests import (
    Answer,
    Input,
    Methods,
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
from whylight.explanation import Explained
from whylight.outputs import Output
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
            deadline: seconds that the call may take, retries included; None means the client's own.
            raise_errors: raise the first error of a list of images, in place of returning it.

        Returns:
            For one image, what was found out about it. For a list, a list in the same order, in which an exception
            stands in the place of every image that could not be explained: one bad image harms no other.

        Raises:
            WhylightError: the call as a whole failed, or the one image could not be explained.
        """
        request = Request(images, method, model, target, options, outputs, seed, top_predictions)
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
        deadline: float | None = None,
        max_in_flight: int = 32,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generator[tuple[int, Result], None, None]:
        """Explain any number of images over one open call, as `explain` does, and yield results as they are ready.

        `on_progress` is called with how far the image of `Progress.input_index` has come, as `Request` says.

        Yields:
            The index of an image and its answer, or the exception that stands in its place. Not in order.
        """
        settings = Request((), method, model, target, options, outputs, seed, top_predictions, on_progress=on_progress)
        requests = single_requests(images, settings)
        for name, answer in self.stream(requests, deadline=deadline, max_in_flight=max_in_flight):
            assert not isinstance(answer, list)  # each request has one image
            yield int(name), answer

    def stream(
        self, requests: Iterable[Request], *, deadline: float | None = None, max_in_flight: int = 32
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

    def methods(self, *, deadline: float | None = None) -> list[MethodInfo]:
        """Return the methods, in the order of their names, without the schemas of their options."""
        return self._ask(queries.list_methods(), deadline)

    def method(self, name: str, *, deadline: float | None = None) -> MethodInfo:
        """Return one method, with the JSON schema of its options."""
        return self._ask(queries.get_method(name), deadline)

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

    def _ask(self, steps: queries.Steps[Answered], deadline: float | None) -> Answered:
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                result: Answered = done.value
                return result
            answer = self._send(step.rpc, step.message, deadline)
