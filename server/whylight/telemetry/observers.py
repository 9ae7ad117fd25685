"""Observers that do nothing and that pass on, for those that look at a part only; measures nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

from whylight.engine.reports import BatchReport, ItemReport
from whylight.errors import WhylightError
from whylight.telemetry.calls import Call, Metadata, Observer, Request, Rpc
from whylight.v1 import explanation_pb2 as v1


class Deaf(Observer):
    """Hears nothing. Those that hear a part build on it."""

    def call_began(self, call: Call, metadata: Metadata) -> None:
        """Do nothing."""

    def call_ended(self, call: Call, code: str, reason: str, seconds: float) -> None:
        """Do nothing."""

    def request_began(self, request: Request) -> None:
        """Do nothing."""

    def request_ended(self, request: Request, code: str, reason: str, seconds: float) -> None:
        """Do nothing."""

    def inputs_refused(self, request: Request, errors: Sequence[WhylightError]) -> None:
        """Do nothing."""

    def inputs_answered(self, request: Request, results: Sequence[v1.InputResult]) -> None:
        """Do nothing."""

    def message_received(self, rpc: Rpc, size: int) -> None:
        """Do nothing."""

    def message_sent(self, rpc: Rpc, size: int) -> None:
        """Do nothing."""


class All(Observer):
    """Tells each of several observers, in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def call_began(self, call: Call, metadata: Metadata) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.call_began(call, metadata)

    def call_ended(self, call: Call, code: str, reason: str, seconds: float) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.call_ended(call, code, reason, seconds)

    def request_began(self, request: Request) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.request_began(request)

    def request_ended(self, request: Request, code: str, reason: str, seconds: float) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.request_ended(request, code, reason, seconds)

    def inputs_refused(self, request: Request, errors: Sequence[WhylightError]) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.inputs_refused(request, errors)

    def inputs_answered(self, request: Request, results: Sequence[v1.InputResult]) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.inputs_answered(request, results)

    def message_received(self, rpc: Rpc, size: int) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.message_received(rpc, size)

    def message_sent(self, rpc: Rpc, size: int) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.message_sent(rpc, size)


def note_queue_time(report: ItemReport) -> None:
    """Have a request remember the longest wait of its inputs."""
    request = report.trace
    if isinstance(request, Request) and report.queue_time > request.queue_seconds:
        request.queue_seconds = report.queue_time


def requests_of(report: BatchReport) -> list[Request]:
    """Return the requests that a batch had inputs of."""
    return [trace for trace in report.traces if isinstance(trace, Request)]
