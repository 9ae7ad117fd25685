"""Fixtures of the client's tests."""

from __future__ import annotations

import pytest
from fake_server import FakeServer

from whylight import AsyncClient, Client


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.address, deadline=20) as client:
        yield client


@pytest.fixture
async def async_client(server):
    async with AsyncClient(server.address, deadline=20) as client:
        yield client
