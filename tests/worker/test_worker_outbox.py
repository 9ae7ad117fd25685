"""The two lanes of what a worker says: pictures hold up no answer, previews are bounded, and nothing else is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from whylight.engine import frames
from whylight.worker.outbox import Outbox, Preview
from whylight.worker.v1 import worker_pb2


@pytest.fixture
def ends() -> Iterator[tuple[Outbox, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Outbox(theirs, preview_bytes=100), ours


def result(id: int) -> worker_pb2.WorkerFrame:
    return worker_pb2.WorkerFrame(result=worker_pb2.ItemResult(item_id=id))


def preview(id: int, step: int, size: int = 10, hold: threading.Event | None = None) -> Preview:
    def encode() -> worker_pb2.ItemPreview:
        assert hold is None or hold.wait(60)
        return worker_pb2.ItemPreview(item_id=id, step=step)

    return Preview(id, size, encode)


def hear(end: socket.socket) -> worker_pb2.WorkerFrame:
    frame = frames.receive(end, worker_pb2.WorkerFrame)
    assert frame is not None
    return frame


def test_an_answer_does_not_wait_for_a_picture_that_is_encoded(ends: tuple[Outbox, socket.socket]) -> None:
    outbox, end = ends
    hold = threading.Event()
    outbox.start()
    outbox.show(preview(1, step=1, hold=hold))
    outbox.deliver(lambda: result(1), slow=True)
    outbox.deliver(lambda: result(2), slow=False)
    assert hear(end).result.item_id == 2
    hold.set()
    assert hear(end).preview.step == 1
    assert hear(end).result.item_id == 1, "the result of what was shown comes behind it"
    outbox.close()


def test_previews_above_the_bound_are_left_out_and_results_never_are(ends: tuple[Outbox, socket.socket]) -> None:
    outbox, end = ends
    assert outbox.show(preview(1, step=1, size=1000)), "one that is larger than the bound is shown when none waits"
    assert not outbox.show(preview(1, step=2))
    for id in range(3):
        outbox.deliver(lambda id=id: result(id), slow=True)
    outbox.start()
    assert hear(end).preview.step == 1
    assert [hear(end).result.item_id for _ in range(3)] == [0, 1, 2]
    assert outbox.show(preview(1, step=3, size=60))
    outbox.close()
    assert hear(end).preview.step == 3, "there was room again"


def test_a_preview_that_cannot_be_encoded_is_left_out(
    ends: tuple[Outbox, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    outbox, end = ends

    def fail() -> worker_pb2.ItemPreview:
        raise ValueError("no such picture")

    outbox.show(Preview(1, 90, fail))
    outbox.start()
    outbox.deliver(lambda: result(1), slow=True)
    assert hear(end).result.item_id == 1
    assert "could not be encoded" in caplog.text
    assert outbox.show(preview(1, step=2, size=90)), "its bytes are free again"
    outbox.close()


def test_a_reader_that_is_gone_keeps_nobody_from_the_end(ends: tuple[Outbox, socket.socket]) -> None:
    outbox, end = ends
    end.close()
    outbox.start()
    for id in range(100):
        outbox.show(preview(id, step=1))
        outbox.deliver(lambda id=id: result(id), slow=bool(id % 2))
    outbox.close()


@pytest.mark.parametrize("slow", [False, True])
def test_what_cannot_be_written_ends_the_connection_and_not_the_thread_in_silence(
    ends: tuple[Outbox, socket.socket], slow: bool
) -> None:
    """A worker whose results go nowhere would be waited for: its front end has to see that it is gone."""
    outbox, end = ends

    def fail() -> worker_pb2.WorkerFrame:
        raise MemoryError

    outbox.start()
    outbox.deliver(lambda: result(1), slow=slow)
    outbox.deliver(fail, slow=slow)
    outbox.deliver(lambda: result(2), slow=slow)
    assert hear(end).result.item_id == 1
    assert frames.receive(end, worker_pb2.WorkerFrame) is None
    outbox.close()
