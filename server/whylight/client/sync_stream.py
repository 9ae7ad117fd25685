"""One blocking StreamExplain call: requests out in one thread, answers in by another; knows not what they say."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from whylight.client.conversation import Conversation, NewsKey
from whylight.client.failures import error_from_call
from whylight.client.requests import Answer, Request
from whylight.errors import WhylightError
from whylight.v1 import explanation_pb2 as pb


@dataclass(frozen=True)
class _End:
    """No more answers will come; `error` is why, unless all of them came."""

    error: WhylightError | None


def stream_answers(
    rpc: Callable[..., Any],
    requests: Iterable[Request],
    settings: dict[str, Any],
    conversation: Conversation,
    max_in_flight: int,
) -> Generator[tuple[str, Answer], None, None]:
    """Send `requests` by `rpc` and yield ids and answers. See `whylight.Client.stream`.

    The call begins with the first answer that is asked for. A slot is taken before a request is read and given back
    when its answer is asked past, so that neither a slow server nor a slow caller makes memory grow.
    """
    stream = _Stream(requests, conversation, max_in_flight)
    call = rpc(stream.messages(), **settings)
    reader = threading.Thread(target=stream.read, args=(call,), name="whylight-stream", daemon=True)
    reader.start()
    try:
        while not isinstance(outcome := stream.outcomes.get(), _End):
            if isinstance(outcome, NewsKey):
                conversation.tell(outcome)
                continue
            yield outcome
            stream.slots.release()
        if outcome.error is not None:
            raise outcome.error
        if stream.broken is not None:
            raise stream.broken
    finally:
        stream.closed = True
        stream.slots.release()
        call.cancel()
        reader.join()


class _Stream:
    def __init__(self, requests: Iterable[Request], conversation: Conversation, max_in_flight: int) -> None:
        self.outcomes: queue.SimpleQueue[tuple[str, Answer] | NewsKey | _End] = queue.SimpleQueue()
        self.slots = threading.Semaphore(max_in_flight)
        self.closed = False
        self.broken: Exception | None = None
        self._requests = requests
        self._conversation = conversation

    def messages(self) -> Iterator[pb.StreamExplainRequest]:
        """Yield the messages to send, in gRPC's thread. An exception here would end the call without a word."""
        try:
            self.slots.acquire()
            for request in self._requests:
                if self.closed:
                    return
                name, message = self._conversation.begin(request)
                if isinstance(message, WhylightError):
                    self.outcomes.put((name, message))
                else:
                    yield message
                self.slots.acquire()
        except Exception as error:
            self.broken = error

    def read(self, call: Any) -> None:
        """Read the answers, in a thread of their own: what cannot be sent has an answer that no server sends."""
        error: WhylightError | None = None
        try:
            for response in call:
                if (outcome := self._conversation.take(response)) is not None:
                    self.outcomes.put(outcome)
        except grpc.RpcError as failure:
            error = error_from_call(failure)
        except WhylightError as unreadable:
            error = unreadable
        self.outcomes.put(_End(error))
