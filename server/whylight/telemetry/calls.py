"""Calls and the requests in them, as those who measure see them: when they begin, what they ask, how they end; measures
nothing.

A call is one RPC. A request is what is explained: a unary call has one, each message of a stream is one. Every call and
every request ends exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from whylight.errors import Code, WhylightError
from whylight.v1 import explanation_pb2 as v1

OK = "OK"
CANCELLED = "CANCELLED"
INTERNAL = "INTERNAL"

_CODES = {0: OK, **{int(code): code.name for code in Code}}

Metadata: TypeAlias = "Iterable[tuple[str, str | bytes]]"
Clock: TypeAlias = Callable[[], float]

METHODS_KEPT = 64
"""Methods of a request whose names are kept; it may name more before it is refused."""

NAME_KEPT = 300
"""Characters of a name that are kept, more than any of ours has: what a client sends is not checked yet."""


@dataclass(frozen=True)
class Rpc:
    """One RPC of a service that this server has. `type` is unary, server_stream or bidi_stream."""

    service: str
    method: str
    type: str

    @property
    def full_name(self) -> str:
        """The name as it travels, such as ``/whylight.v1.ExplanationService/Explain``."""
        return f"/{self.service}/{self.method}"

    @property
    def is_request(self) -> bool:
        """Whether each of its calls is one request."""
        return self.full_name in _REQUESTS


_REQUESTS = frozenset(
    {
        *(f"/whylight.v1.ExplanationService/{name}" for name in ("Explain", "Evaluate", "Synthesize", "Inspect")),
        "/inference.GRPCInferenceService/ModelInfer",
    }
)


class Observer(Protocol):
    """Who is told. Nothing that it does may block or raise."""

    def call_began(self, call: Call, metadata: Metadata) -> None:
        """Hear of a call. `metadata` is what came with it."""

    def call_ended(self, call: Call, code: str, reason: str, seconds: float) -> None:
        """Hear of a call's end: `code` is the name of a gRPC status, `reason` that of the error."""

    def request_began(self, request: Request) -> None:
        """Hear of a request, which says nothing of itself yet."""

    def request_ended(self, request: Request, code: str, reason: str, seconds: float) -> None:
        """Hear of a request's end. If it is all of its call, the call's end comes next."""

    def inputs_refused(self, request: Request, errors: Sequence[WhylightError]) -> None:
        """Hear of inputs that were refused before the engine saw them; the others of their request go on."""

    def inputs_answered(self, request: Request, results: Sequence[v1.InputResult]) -> None:
        """Hear of what came of the inputs of a request."""

    def message_received(self, rpc: Rpc, size: int) -> None:
        """Hear of a message of so many bytes."""

    def message_sent(self, rpc: Rpc, size: int) -> None:
        """Hear of a message of so many bytes."""


@dataclass(eq=False)
class Request:
    """What is asked, as far as it is known by now: `model` and `methods` are what the client says, and may be anything.

    `queue_seconds` is the longest wait of an input of it that has ended, `errors` are what inputs were answered with in
    place of explanations: code and reason. `span` is for whoever traces.
    """

    call: Call
    began: float
    model: str = ""
    methods: tuple[str, ...] = ()
    inputs: int = 0
    queue_seconds: float = 0.0
    errors: list[tuple[str, str]] = field(default_factory=list)
    span: Any = None
    _ended: bool = False

    def refused(self, errors: Iterable[WhylightError]) -> None:
        """Say which inputs go no further than their check."""
        if refused := tuple(errors):
            self.call.observer.inputs_refused(self, refused)

    def answered(self, results: Sequence[v1.InputResult]) -> None:
        """Say what came of inputs, each once."""
        for result in results:
            if result.HasField("error"):
                self.errors.append((code_name(result.error.code), result.error.reason))
        self.call.observer.inputs_answered(self, results)

    def end(self, code: str, reason: str = "") -> None:
        """Say how it ended. What comes after the first end is not heard."""
        if not self._ended:
            self._ended = True
            self.call.observer.request_ended(self, code, reason, self.call.clock() - self.began)


@dataclass(eq=False)
class Call:
    """One RPC that is open; `request` is the one that it is, if it is one, until its end."""

    observer: Observer
    rpc: Rpc
    id: str
    clock: Clock = time.perf_counter
    began: float = 0.0
    request: Request | None = None
    span: Any = None
    _ended: bool = False

    def begin(self, metadata: Metadata) -> None:
        """Begin, in the task that serves the call."""
        self.began = self.clock()
        self.observer.call_began(self, metadata)
        _current_call.set(self)
        if self.rpc.is_request:
            self.request = self.begin_request()

    def begin_request(self) -> Request:
        """Begin a request of this call, in the task that answers it."""
        request = Request(self, self.clock())
        _current_request.set(request)
        self.observer.request_began(request)
        return request

    def end(self, code: str, reason: str = "") -> None:
        """Say how it ended. What comes after the first end is not heard."""
        if self._ended:
            return
        self._ended = True
        request, self.request = self.request, None  # they know each other, and nobody should have to collect them
        if request is not None:
            request.end(code, reason)
        self.observer.call_ended(self, code, reason, self.clock() - self.began)


def code_name(code: int) -> str:
    """Return the name of a code of google.rpc.Code that whylight answers with; UNKNOWN of any other."""
    return _CODES.get(code, "UNKNOWN")


_current_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)
_current_request: contextvars.ContextVar[Request | None] = contextvars.ContextVar("request", default=None)


def current_request() -> Request | None:
    """Return the request that this code works for; None outside of requests, and when nobody measures."""
    return _current_request.get()


def describe(model: str, methods: Iterable[str], inputs: int) -> None:
    """Say what the current request asks for."""
    request = _current_request.get()
    if request is not None:
        request.model = model[:NAME_KEPT]
        request.methods = tuple(method[:NAME_KEPT] for _, method in zip(range(METHODS_KEPT), methods, strict=False))
        request.inputs = inputs


@contextlib.contextmanager
def streamed_request() -> Iterator[None]:
    """Make what is done within a request of its own, of the call of a stream."""
    call = _current_call.get()
    if call is None:
        yield
        return
    request = call.begin_request()
    try:
        yield
    except WhylightError as error:
        request.end(error.code.name, error.reason)
        raise
    except asyncio.CancelledError:
        request.end(CANCELLED, CANCELLED)
        raise
    except BaseException:
        request.end(INTERNAL, INTERNAL)
        raise
    request.end(OK)


def refused_request(error: WhylightError) -> None:
    """Count a message of a stream that was refused as it came."""
    with contextlib.suppress(WhylightError), streamed_request():
        raise error
