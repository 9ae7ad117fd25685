"""Frames: what goes in comes out, whatever the pieces it arrives in; what is no frame is told from an ordinary end."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whylight.engine import frames
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2

MESSAGE = worker_pb2.FrontEndFrame(cancel=worker_pb2.Cancel(item_ids=[1, 2, 3]))


def wire(*messages: worker_pb2.FrontEndFrame) -> bytes:
    return b"".join(b"".join(frames.encode(message)) for message in messages)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_frame_is_a_little_endian_length_and_the_message(pair) -> None:
    ours, theirs = pair
    frames.send(ours, MESSAGE)
    ours.close()
    received = b""
    while piece := theirs.recv(4096):
        received += piece
    assert received == struct.pack("<I", MESSAGE.ByteSize()) + MESSAGE.SerializeToString()


def test_frames_longer_than_any_socket_buffer_arrive_whole(pair) -> None:
    ours, theirs = pair
    large = worker_pb2.FrontEndFrame(
        batch=worker_pb2.Batch(items=[worker_pb2.Item(input=v1.Input(image=bytes(8 << 20)))])
    )
    sender = threading.Thread(target=lambda: [frames.send(ours, message) for message in (large, MESSAGE)])
    sender.start()
    assert frames.receive(theirs, worker_pb2.FrontEndFrame) == large
    assert frames.receive(theirs, worker_pb2.FrontEndFrame) == MESSAGE
    sender.join()


def test_a_close_between_frames_is_an_end_and_inside_one_a_break(pair) -> None:
    ours, theirs = pair
    ours.sendall(wire(MESSAGE) + wire(MESSAGE)[:-1])
    ours.close()
    assert frames.receive(theirs, worker_pb2.FrontEndFrame) == MESSAGE
    with pytest.raises(frames.BrokenFrame):
        frames.receive(theirs, worker_pb2.FrontEndFrame)


def test_an_empty_message_is_no_end(pair) -> None:
    ours, theirs = pair
    frames.send(ours, worker_pb2.FrontEndFrame())
    ours.close()
    assert frames.receive(theirs, worker_pb2.FrontEndFrame) == worker_pb2.FrontEndFrame()
    assert frames.receive(theirs, worker_pb2.FrontEndFrame) is None


def test_a_length_above_the_limit_is_refused_before_its_bytes_are_read(pair) -> None:
    ours, theirs = pair
    ours.sendall(struct.pack("<I", 2**32 - 1))
    with pytest.raises(frames.BrokenFrame, match="above the limit"):
        frames.receive(theirs, worker_pb2.FrontEndFrame)


def test_a_message_above_the_limit_is_not_sent_at_all(pair) -> None:
    ours, theirs = pair
    with pytest.raises(frames.FrameTooLong):
        frames.send(ours, MESSAGE, limit=2)
    ours.close()
    assert theirs.recv(1) == b""


def test_bytes_that_are_no_message_are_a_break(pair) -> None:
    ours, theirs = pair
    ours.sendall(struct.pack("<I", 3) + b"\xff\xff\xff")
    with pytest.raises(frames.BrokenFrame, match="no FrontEndFrame"):
        frames.receive(theirs, worker_pb2.FrontEndFrame)


@given(cuts=st.lists(st.integers(0, 60), max_size=6))
def test_the_asynchronous_side_reads_the_same_whatever_the_pieces(cuts: list[int]) -> None:
    whole = wire(MESSAGE, worker_pb2.FrontEndFrame(), MESSAGE)

    async def read_all() -> list[worker_pb2.FrontEndFrame]:
        reader = asyncio.StreamReader()
        edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
        for start, end in itertools.pairwise(edges):
            reader.feed_data(whole[start:end])
        reader.feed_eof()
        found = []
        while (frame := await frames.read(reader, worker_pb2.FrontEndFrame)) is not None:
            found.append(frame)
        return found

    assert asyncio.run(read_all()) == [MESSAGE, worker_pb2.FrontEndFrame(), MESSAGE]


@given(cut=st.integers(1, len(wire(MESSAGE)) - 1))
def test_the_asynchronous_side_tells_a_break_from_an_end(cut: int) -> None:
    async def read_cut() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(wire(MESSAGE)[:cut])
        reader.feed_eof()
        with pytest.raises(frames.BrokenFrame):
            await frames.read(reader, worker_pb2.FrontEndFrame)

    asyncio.run(read_cut())
