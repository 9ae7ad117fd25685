"""Sends a request not as gRPC wants it: lies about lengths, unknown encodings, frames that are none."""

from __future__ import annotations

import asyncio
import contextlib
import random

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from fuzz_mutations import spoil_bytes
from fuzz_seeds import Seed

PATIENCE = 1.0
"""Seconds to wait for whatever the server may say."""


async def send_misframed(address: str, seed: Seed, requests: list[bytes], number: int) -> str:
    """Send the first of `requests` over a connection of its own, and return what came of it, in a word."""
    chance = random.Random(number)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        http.initiate_connection()
        writer.write(http.data_to_send())
        data = _message(requests[0], chance)
        http.send_headers(1, _headers(address, seed.path, chance))
        for place in range(0, min(len(data), 60_000), 16_000):
            http.send_data(1, data[place : place + 16_000])
        if chance.random() < 0.7:
            http.end_stream(1)
        frames = http.data_to_send()
        if chance.random() < 0.4:
            frames = spoil_bytes(frames, chance, data)
        writer.write(frames)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        return await _answer(reader, http)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def _message(data: bytes, chance: random.Random) -> bytes:
    flag = chance.choice((0, 0, 1, 2, 255))
    length = chance.choice((len(data), 0, len(data) - 1, len(data) + 1, 2**20, 2**20 + 1, 2**31, 2**32 - 1))
    return bytes((flag,)) + max(0, length).to_bytes(4, "big") + data


def _headers(address: str, path: str, chance: random.Random) -> list[tuple[str, str]]:
    headers = {
        ":method": chance.choice(("POST", "POST", "POST", "GET", "PUT")),
        ":scheme": "http",
        ":path": chance.choice((path, path, path, "/", path + "x", "/a/b/c", "/whylight.v1.AdminService/LoadModel")),
        ":authority": address,
        "content-type": chance.choice(("application/grpc", "application/grpc", "application/grpc+json", "text/html")),
        "te": "trailers",
    }
    more = (
        ("grpc-encoding", chance.choice(("gzip", "deflate", "nothing"))),
        ("grpc-timeout", chance.choice(("1n", "0S", "-1S", "99999999H", "x"))),
        ("x-request-id", "a" * chance.choice((1, 64, 65, 5000))),
        ("authorization", chance.choice(("Bearer", "Bearer ", "Basic x", "Bearer " + "t" * 4000))),
        ("traceparent", chance.choice(("00-0-0-0", "00-" + "f" * 32 + "-" + "f" * 16 + "-01"))),
        ("key-bin", "not base64!"),
    )
    return [*headers.items(), *(pair for pair in more if chance.random() < 0.3)]


async def _answer(reader: asyncio.StreamReader, http: h2.connection.H2Connection) -> str:
    with contextlib.suppress(asyncio.TimeoutError, ConnectionError, h2.exceptions.ProtocolError):
        while True:
            data = await asyncio.wait_for(reader.read(2**16), PATIENCE)
            if not data:
                return "closed"
            for event in http.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    status = dict(event.headers).get("grpc-status")
                    if status is not None:
                        return f"status {status}"
                if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return type(event).__name__
    return "nothing"
