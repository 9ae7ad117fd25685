"""The bookkeeping of one StreamExplain call: ids, what is open, how answers are read; knows no transport."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from whylight import wire
from whylight.client.requests import Answer, Request, build_request, read_response
from whylight.errors import InternalError, InvalidInput, WhylightError
from whylight.latest import Latest
from whylight.progress import Progress
from whylight.v1 import explanation_pb2 as pb

MAX_IN_FLIGHT = 64
"""How many requests of a stream are open at once, unless the caller says otherwise: as many as a server works on."""

_WRAPPING = 16
"""Bytes that the tags and lengths around an id and a request take at most."""


class NewsKey(NamedTuple):
    """What progress is about: a request and one of its inputs."""

    request: str
    input_index: int


class Conversation:
    """Which requests of a stream are open. One thread begins them, another may end them."""

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._open: dict[str, Request] = {}
        self._numbers = itertools.count()
        self._news: Latest[NewsKey, tuple[Callable[[Progress], None], Progress]] = Latest()

    def begin(self, request: Request) -> tuple[str, pb.StreamExplainRequest | WhylightError]:
        """Return the id of a request and its message, or the error that stands in its place: it cannot be sent.

        Raises:
            InvalidInput: its id is that of a request that is still open (REQUEST_INVALID).
        """
        name = request.id or str(next(self._numbers))
        if name in self._open:
            raise InvalidInput(f"the id {name!r} is that of a request that is still open", field="id")
        max_bytes = None if self._max_bytes is None else self._max_bytes - len(name.encode()) - _WRAPPING
        try:
            message = pb.StreamExplainRequest(id=name, request=build_request(request, max_bytes))
            if request.on_progress is not None:
                spec = wire.progress_spec_to_proto(request.progress_interval, request.running_maps)
                message.progress.CopyFrom(spec)
        except WhylightError as error:
            return name, error
        self._open[name] = _without_data(request)
        return name, message

    def take(self, response: pb.StreamExplainResponse) -> tuple[str, Answer] | NewsKey | None:
        """Take a response in: return an answer, or the key of news that are to be told, or None if they are queued."""
        if response.WhichOneof("outcome") != "progress":
            answer = self.end(response)
            self._news.drop(lambda key: key[0] == response.id)
            return answer
        request = self._open.get(response.id)
        if request is None or request.on_progress is None:
            raise InternalError(f"progress of {response.id!r}, which nobody asked for", reason="RESPONSE_INVALID")
        key = NewsKey(response.id, response.progress.input_index)
        news = (request.on_progress, wire.progress_from_proto(response.progress))
        return key if self._news.put(key, news) else None

    def tell(self, key: NewsKey) -> None:
        """Tell the caller the newest of what came under `key`; nothing when its request has been answered."""
        news = self._news.take(key)
        if news is not None:
            on_progress, progress = news
            on_progress(progress)

    def end(self, response: pb.StreamExplainResponse) -> tuple[str, Answer]:
        """Return the id of the request that a response answers, and the answer.

        Raises:
            InternalError: it answers none that is open, or cannot be read (RESPONSE_INVALID).
        """
        if response.WhichOneof("outcome") == "refused":  # we never give an id twice
            raise InternalError(f"the server has {response.id!r} open twice", reason="RESPONSE_INVALID")
        request = self._open.pop(response.id, None)
        if request is None:
            raise InternalError(f"an answer to {response.id!r}, which is not open", reason="RESPONSE_INVALID")
        outcome = response.WhichOneof("outcome")
        if outcome == "response":
            return response.id, read_response(request, response.response)
        if outcome == "error":
            return response.id, wire.error_from_proto(response.error)
        raise InternalError("a response holds neither an answer nor an error", reason="RESPONSE_INVALID")


def _without_data(request: Request) -> Request:
    """Return the request without its pictures, of which only the number is needed to read the answer."""
    return replace(request, images=b"" if request.single else [b""] * len(request.images))  # type: ignore[arg-type]
