"""The server around the services: health, reflection, the port, and its end."""

from __future__ import annotations

import asyncio
import gc
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rpc_serving import FakeEngine, Served, failure_of, request, serving

from whylight.engine.engine import State
from whylight.rpc.server import RpcServer
from whylight.settings import Settings
from whylight.v1 import catalog_pb2, explanation_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", "whylight.v1.ExplanationService", "whylight.v1.CatalogService")


def health(served: Served) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(served.channel)


def explanations(served: Served) -> explanation_pb2_grpc.ExplanationServiceStub:
    return explanation_pb2_grpc.ExplanationServiceStub(served.channel)


@pytest.mark.parametrize("service", SERVICES)
async def test_health_follows_the_engine(served: Served, service: str):
    watch = health(served).Watch(health_pb2.HealthCheckRequest(service=service))
    assert (await watch.read()).status == SERVING
    for state, status in ((State.UNAVAILABLE, NOT_SERVING), (State.READY, SERVING), (State.DRAINING, NOT_SERVING)):
        served.set_state(state)
        assert (await watch.read()).status == status
        checked = await health(served).Check(health_pb2.HealthCheckRequest(service=service))
        assert checked.status == status
    watch.cancel()


async def test_each_model_has_a_health_of_its_own(served: Served):
    name = "whylight.v1.ExplanationService/two"
    watch = health(served).Watch(health_pb2.HealthCheckRequest(service=name))
    later = health(served).Watch(health_pb2.HealthCheckRequest(service="whylight.v1.ExplanationService/three"))
    assert (await watch.read()).status == SERVING
    assert (await later.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    served.engine.catalog.models[1].state = catalog_pb2.MODEL_STATE_UNLOADING
    served.engine.catalog.models.add(name="three", state=catalog_pb2.MODEL_STATE_READY)
    served.server.update_health()
    assert (await watch.read()).status == NOT_SERVING
    assert (await later.read()).status == SERVING
    for service, status in (("", SERVING), (f"{SERVICES[1]}/one", SERVING), (name, NOT_SERVING)):
        assert (await health(served).Check(health_pb2.HealthCheckRequest(service=service))).status == status
    served.set_state(State.UNAVAILABLE)
    assert (await later.read()).status == NOT_SERVING
    failure = await failure_of(health(served).Check(health_pb2.HealthCheckRequest(service=f"{SERVICES[1]}/four")))
    assert failure.reason == "SERVICE_NOT_FOUND"
    watch.cancel()
    later.cancel()


async def test_a_server_is_not_serving_before_its_models_are_loaded(served: Served):
    served.set_state(State.STARTING)
    assert (await health(served).Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING


async def test_a_server_lives_while_it_loads_and_while_it_drains(served: Served):
    for state in (State.STARTING, State.UNAVAILABLE, State.DRAINING):
        served.set_state(state)
        assert (await health(served).Check(health_pb2.HealthCheckRequest(service="liveness"))).status == SERVING


async def test_a_watcher_that_leaves_takes_nothing_from_the_others(served: Served):
    first = health(served).Watch(health_pb2.HealthCheckRequest())
    second = health(served).Watch(health_pb2.HealthCheckRequest())
    assert (await first.read()).status == (await second.read()).status == SERVING
    first.cancel()
    assert await first.code() is grpc.StatusCode.CANCELLED
    served.set_state(State.UNAVAILABLE)
    assert (await second.read()).status == NOT_SERVING
    second.cancel()


async def test_a_service_that_is_not_there(served: Served):
    failure = await failure_of(health(served).Check(health_pb2.HealthCheckRequest(service="x")))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND")
    watch = health(served).Watch(health_pb2.HealthCheckRequest(service="x"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def reflect(served: Served):
    stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    return stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))


async def test_reflection_lists_the_services(served: Served):
    response = await reflect(served).read()
    assert {service.name for service in response.list_services_response.service} == {
        "whylight.v1.ExplanationService",
        "whylight.v1.CatalogService",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_can_be_switched_off():
    async with serving(server={"reflection": False}) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflect(served).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_belongs_to_one_server(served: Served):
    _, _, port = served.address.rpartition(":")
    second = RpcServer(Settings(server={"port": int(port)}), FakeEngine())
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        await second.start()


async def test_drain_says_so_turns_away_finishes_and_stops(served: Served):
    served.engine.hold.clear()
    watch = health(served).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    in_flight = explanations(served).Explain(request())
    await served.engine.arrived.get()
    draining = asyncio.ensure_future(served.server.drain(asyncio.Event()))
    assert (await watch.read()).status == NOT_SERVING
    await served.server._admission.wait_closed()
    turned_away = await failure_of(explanations(served).Explain(request()))
    assert (turned_away.code, turned_away.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert turned_away.retry_seconds == 1
    served.set_state(State.READY)  # an engine that is still up does not make the server look alive again
    assert (await health(served).Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
    assert served.engine.hastened
    served.engine.hold.set()
    assert (await in_flight).results[0].HasField("explained")
    assert await draining is True
    assert (await failure_of(watch.read())).reason == "DRAINING"


async def test_drain_gives_up_at_its_time():
    async with serving(server={"drain_seconds": 0.01}) as served:
        served.engine.hold.clear()
        in_flight = explanations(served).Explain(request())
        await served.engine.arrived.get()
        assert await served.server.drain(asyncio.Event()) is False
        with pytest.raises(grpc.aio.AioRpcError):
            await in_flight
        await asyncio.wait_for(served.engine.let_go.wait(), 60)  # the client may learn of it first
        assert served.engine.cancelled == 1


async def test_the_second_signal_does_not_wait():
    async with serving(server={"drain_seconds": 3600, "lame_duck_seconds": 3600}) as served:
        served.engine.hold.clear()
        in_flight = explanations(served).Explain(request())
        await served.engine.arrived.get()
        hurry = asyncio.Event()
        draining = asyncio.ensure_future(served.server.drain(hurry))
        hurry.set()
        assert await draining is False
        with pytest.raises(grpc.aio.AioRpcError):
            await in_flight


async def test_a_lame_duck_still_answers():
    async with serving(server={"lame_duck_seconds": 3600}) as served:
        hurry = asyncio.Event()
        watch = health(served).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        draining = asyncio.ensure_future(served.server.drain(hurry))
        assert (await watch.read()).status == NOT_SERVING
        assert (await explanations(served).Explain(request())).results
        hurry.set()
        assert await draining is True


async def test_where_nobody_was_sent_to_there_is_no_lame_duck():
    """A server whose models cannot be loaded, or that is told to stop before they are, ends at once."""
    async with serving(server={"lame_duck_seconds": 3600}) as served:
        served.set_state(State.STARTING)
        assert await asyncio.wait_for(served.server.drain(asyncio.Event()), 60) is True


async def test_a_connection_has_a_bounded_number_of_calls_open():
    async with serving(server={"calls_per_connection": 1}) as served:
        served.engine.hold.clear()
        first = explanations(served).Explain(request())
        await served.engine.arrived.get()
        second = explanations(served).Explain(request())
        own_pool = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(served.address, own_pool) as other:
            await health_pb2_grpc.HealthStub(other).Check(health_pb2.HealthCheckRequest())
        assert len(served.engine.works) == 1
        served.engine.hold.set()
        assert (await first).results
        assert (await second).results


async def test_calls_beyond_those_of_a_connection_wait_and_none_is_refused():
    """Each of them takes the place of one that has only just ended."""
    async with serving(server={"calls_per_connection": 2}) as served:
        for _ in range(5):
            answers = await asyncio.gather(*(explanations(served).Explain(request()) for _ in range(40)))
            assert all(answer.results for answer in answers)


async def test_no_call_leaves_a_suspended_generator_to_the_garbage_collector():
    """Python hands such a generator to the loop's hook, which would close it in a task of its own."""
    left: list[str] = []
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=lambda generator: left.append(generator.__qualname__))
    try:
        async with serving() as served:
            for _ in range(3):
                assert (await explanations(served).Explain(request())).results
            assert await explanations(served).StreamExplain(iter([])).read() is grpc.aio.EOF
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(*hooks)
    assert left == []
