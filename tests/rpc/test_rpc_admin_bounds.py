"""How many calls the listener for administrators takes, and how long it waits for what they send."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest
from admin_serving import administering, choice
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rpc_serving import failure_of

from whylight.rpc import admin_server
from whylight.v1 import admin_pb2, admin_pb2_grpc

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


async def test_more_calls_than_may_be_open_are_refused(tmp_path: Path) -> None:
    """As many loads as there may be calls are at work, each of them known to be: it has told its first status."""
    choices = [choice(f"net{number}", load=False) for number in range(admin_server.CALLS)]
    async with administering(tmp_path, *choices) as served:
        served.pool.up(0)
        served.pool.hold.clear()
        calls = [served.stub.LoadModel(admin_pb2.LoadModelRequest(name=one.name)) for one in choices]
        for call in calls:
            assert await call.read() is not grpc.aio.EOF
        async with grpc.aio.insecure_channel(served.address, OWN_CONNECTION) as other:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await admin_pb2_grpc.AdminServiceStub(other).ListModels(admin_pb2.AdminServiceListModelsRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        served.pool.hold.set()
        for call in calls:
            while await call.read() is not grpc.aio.EOF:
                pass
            assert await call.code() is grpc.StatusCode.OK, "those that were open are answered"


async def test_a_request_that_does_not_come_ends_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "RECEIVE_SECONDS", 0.01)
    async with administering(tmp_path, choice("net")) as served:
        call = served.channel.stream_unary("/whylight.v1.AdminService/ListModels")(timeout=60)
        failure = await failure_of(call)
    assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "MESSAGE_LATE")


async def test_more_streams_of_requests_than_may_be_open_are_refused(tmp_path: Path) -> None:
    async with administering(tmp_path, choice("net")) as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        streams = [stub.ServerReflectionInfo() for _ in range(admin_server.RECEIVING)]
        for stream in streams:
            await stream.write(asked)
            assert (await stream.read()).list_services_response.service
        one_more = stub.ServerReflectionInfo()
        failure = await failure_of(one_more.read())
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
        for stream in streams:
            stream.cancel()
