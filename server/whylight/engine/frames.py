"""Length-prefixed protobuf frames on a local stream socket, blocking and asyncio; knows no meaning of any frame.

A frame is a four-byte little-endian length and then one message of that many bytes. Lengths are checked before memory
is set aside for them, on both sides.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

FRAME_BYTES = 256 * 2**20
"""How long a frame may be. A batch is kept far below it by the engine's bounds; an answer above it becomes an error."""

_LENGTH = struct.Struct("<I")

AnyMessage = TypeVar("AnyMessage", bound=Message)


class BrokenFrame(ConnectionError):
    """The other side ended in the middle of a frame, or sent what is no frame. The connection is of no more use."""


class FrameTooLong(ValueError):
    """A message is above the bound of a frame; nothing of it was sent."""


def encode(message: Message, limit: int = FRAME_BYTES) -> tuple[bytes, bytes]:
    """Return the prefix and the payload of the frame of `message`.

    Raises:
        FrameTooLong: the payload would be longer than `limit` bytes.
    """
    size = message.ByteSize()
    if size > limit:
        raise FrameTooLong(f"a frame of {size} bytes is above the limit of {limit}")
    return _LENGTH.pack(size), message.SerializeToString()


def send(connection: socket.socket, message: Message, limit: int = FRAME_BYTES) -> None:
    """Write one frame, blocking.

    Raises:
        FrameTooLong: the payload would be longer than `limit` bytes.
        OSError: the other side has gone.
    """
    for part in encode(message, limit):
        connection.sendall(part)


def receive(connection: socket.socket, kind: type[AnyMessage], limit: int = FRAME_BYTES) -> AnyMessage | None:
    """Read one frame, blocking; None when the other side closed the connection between two frames.

    Raises:
        BrokenFrame: the frame is cut short, longer than `limit` bytes, or no message of this kind.
        OSError: the connection broke.
    """
    prefix = _receive_exactly(connection, _LENGTH.size)
    if not prefix:
        return None
    size = _checked_length(prefix, limit)
    payload = _receive_exactly(connection, size)
    if len(payload) < size:
        raise BrokenFrame(f"the connection ended inside a frame of {size} bytes")
    return _parse(kind, payload)


def write(writer: asyncio.StreamWriter, message: Message, limit: int = FRAME_BYTES) -> None:
    """Put one frame into the buffer of `writer`; who may put in how much is the caller's to bound.

    Raises:
        FrameTooLong: the payload would be longer than `limit` bytes.
    """
    writer.writelines(encode(message, limit))


async def read(reader: asyncio.StreamReader, kind: type[AnyMessage], limit: int = FRAME_BYTES) -> AnyMessage | None:
    """Read one frame; None when the other side closed the connection between two frames.

    Raises:
        BrokenFrame: the frame is cut short, longer than `limit` bytes, or no message of this kind.
        OSError: the connection broke.
    """
    try:
        prefix = await reader.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BrokenFrame("the connection ended inside the length of a frame") from None
        return None
    size = _checked_length(prefix, limit)
    try:
        payload = await reader.readexactly(size)
    except asyncio.IncompleteReadError:
        raise BrokenFrame(f"the connection ended inside a frame of {size} bytes") from None
    return _parse(kind, payload)


def _receive_exactly(connection: socket.socket, size: int) -> bytearray:
    """Return `size` bytes, or nothing when the connection ends before the first of them.

    Raises:
        BrokenFrame: the connection ends in between.
    """
    buffer = bytearray(size)
    view = memoryview(buffer)
    filled = 0
    while filled < size:
        count = connection.recv_into(view[filled:])
        if not count:
            if filled:
                raise BrokenFrame(f"the connection ended after {filled} of {size} bytes")
            return bytearray()
        filled += count
    return buffer


def _checked_length(prefix: bytes | bytearray, limit: int) -> int:
    (size,) = _LENGTH.unpack(prefix)
    if size > limit:
        raise BrokenFrame(f"a frame says it has {size} bytes, above the limit of {limit}")
    return int(size)


def _parse(kind: type[AnyMessage], payload: bytes | bytearray) -> AnyMessage:
    message = kind()
    try:
        message.ParseFromString(memoryview(payload))  # type: ignore[arg-type]  # the stubs know bytes only
    except DecodeError as error:
        raise BrokenFrame(f"a frame is no {kind.__name__}: {error}") from None
    return message
