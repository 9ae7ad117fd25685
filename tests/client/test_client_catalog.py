"""The catalog arrives whole, page by page, as plain values, blocking and asyncio alike."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import FrozenInstanceError
from datetime import datetime, timezone

import pytest

from whylight import AsyncClient, Client
from whylight.client.catalog import LayerInfo
from whylight.errors import DeadlineExceeded, NotFound
from whylight.limits import Limits


def test_lists_are_read_to_their_last_page(client, server):
    assert [method.name for method in client.methods()] == [f"method-{k}" for k in range(5)]
    assert len(server.requests) == 3
    assert {request.page_size for request in server.requests} == {1000}


def test_method(client):
    method = client.method("method-3")
    assert (method.kind, method.needs, method.plugin) == ("attribution", ("gradients",), "fake")
    assert method.options_schema["properties"]["steps"]["default"] == 50
    with pytest.raises(FrozenInstanceError):
        method.name = "other"
    with pytest.raises(NotFound) as caught:
        client.method("other")
    assert caught.value.reason == "METHOD_NOT_FOUND"


def test_model(client):
    (listed,) = client.models()
    model = client.model()
    assert (listed.labels, model.labels) == ((), ("cat", "dog"))
    assert model.layers == (LayerInfo("conv", "Conv2d", (8, 4, 4), 10),)
    assert (model.input_size, model.default, model.batch_invariant) == ((4, 5), True, True)


def test_plugins_with_their_states(client):
    assert [(plugin.name, plugin.state, plugin.error) for plugin in client.plugins()] == [
        ("cam", "active", ""),
        ("bad", "failed", "no such module"),
        ("new", "99", ""),  # a state that this version does not know
    ]


def test_server_info(client):
    info = client.server_info()
    assert info.version == "9.9"
    assert info.library_versions == {"torch": "2.15"}
    assert info.start_time == datetime.fromtimestamp(1_700_000_000, timezone.utc)
    assert info.limits == Limits()


async def test_asyncio_asks_the_same(client, async_client):
    assert await async_client.methods() == client.methods()
    assert await async_client.method("method-1") == client.method("method-1")
    assert await async_client.models() == client.models()
    assert await async_client.model() == client.model()
    assert await async_client.plugins() == client.plugins()
    assert await async_client.server_info() == client.server_info()
    with pytest.raises(NotFound):
        await async_client.method("other")


def test_wait_ready_returns_when_the_server_serves(client, server):
    server.serving(False)
    waited = threading.Event()

    def wait():
        client.wait_ready(20)
        waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not waited.is_set()
    server.serving(True)
    thread.join(20)
    assert waited.is_set()


def test_wait_ready_gives_up_at_its_deadline(client, server):
    server.serving(False)
    with pytest.raises(DeadlineExceeded):
        client.wait_ready(0.2)


def test_wait_ready_waits_for_a_server_that_does_not_listen():
    with Client("127.0.0.1:1") as client, pytest.raises(DeadlineExceeded):
        client.wait_ready(0.2)


async def test_wait_ready_asyncio(server):
    server.serving(False)
    async with AsyncClient(server.address) as client:
        waiting = asyncio.ensure_future(client.wait_ready(20))
        await asyncio.sleep(0)
        assert not waiting.done()
        server.serving(True)
        await waiting
        server.serving(False)
        with pytest.raises(DeadlineExceeded):
            await client.wait_ready(0.2)
