"""Tokens on a real socket: who is refused, what is said, and that nothing of the call was read before."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rpc_serving import Failure, Served, failure_of, request, serving

from whylight.rpc.authentication import FREE, scope_of
from whylight.security import Scope, current_caller
from whylight.security.new_token import new_token
from whylight.v1 import catalog_pb2, catalog_pb2_grpc, explanation_pb2, explanation_pb2_grpc
from whylight.v1 import explanation_pb2 as v1

BOTH = new_token("both", ["explain", "catalog"])
CATALOG = new_token("reader", ["catalog"])
METRICS = new_token("prometheus", ["metrics"])


@pytest.fixture
async def guarded(tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(BOTH.lines + CATALOG.lines + METRICS.lines)
    path.chmod(0o600)
    async with serving(authentication={"tokens_file": str(path)}) as running:
        yield running


def bearing(token: str):
    return (("authorization", f"Bearer {token}"),)


def explanations(served: Served):
    return explanation_pb2_grpc.ExplanationServiceStub(served.channel)


def catalogs(served: Served):
    return catalog_pb2_grpc.CatalogServiceStub(served.channel)


async def test_a_good_token_is_let_in_and_its_name_is_known_to_the_call(guarded):
    seen = []
    answer = guarded.engine.answer

    def told(work):
        seen.append(current_caller().name)
        return answer(work)

    guarded.engine.answer = told
    await explanations(guarded).Explain(request(), metadata=bearing(BOTH.token))
    stream = explanations(guarded).StreamExplain(metadata=bearing(BOTH.token))
    await stream.write(v1.StreamExplainRequest(id="1", request=request()))
    await stream.read()
    await stream.done_writing()
    assert seen == ["both", "both"]
    assert len(
        (await catalogs(guarded).ListMethods(catalog_pb2.ListMethodsRequest(), metadata=bearing(CATALOG.token))).methods
    )


@pytest.mark.parametrize(
    ("metadata", "code", "reason"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
        ((("authorization", "Basic dXNlcg=="),), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
        (bearing(BOTH.token) + bearing(BOTH.token), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
        (bearing("whylight_wrong"), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
        (bearing(CATALOG.token), grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (bearing(METRICS.token), grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
    ],
)
async def test_others_are_refused_and_told_why(guarded, metadata, code, reason):
    stub = explanations(guarded)
    failures = [
        await failure_of(stub.Explain(request(), metadata=metadata)),
        await failure_of(stub.Evaluate(v1.EvaluateRequest(), metadata=metadata)),
        await failure_of(stub.StreamExplain(metadata=metadata).read()),
        await failure_of(stub.Synthesize(v1.SynthesizeRequest(), metadata=metadata).read()),
        await failure_of(stub.Inspect(v1.InspectRequest(), metadata=metadata).read()),
    ]
    assert {(failure.code, failure.reason) for failure in failures} == {(code, reason)}
    assert guarded.engine.works == []
    for failure in failures:
        assert failure.trailers["x-request-id"]
        for secret in (BOTH.token, CATALOG.token, METRICS.token, "wrong", "reader", "prometheus", "tokens.toml"):
            assert secret not in failure.message
            assert secret not in str(failure.metadata)


async def test_a_stranger_is_refused_before_the_message_is_read(guarded):
    """The call never sends its message to the end, and yet has its answer."""
    call = guarded.channel.stream_unary("/whylight.v1.ExplanationService/Explain")()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert Failure(caught.value).reason == "TOKEN_MISSING"


async def test_bytes_of_a_stranger_are_not_parsed(guarded):
    call = guarded.channel.unary_unary("/whylight.v1.ExplanationService/Explain")
    assert (await failure_of(call(b"\xff" * 100))).reason == "TOKEN_MISSING"


async def test_health_needs_no_token_and_reflection_needs_one(guarded):
    health = health_pb2_grpc.HealthStub(guarded.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    assert (await failure_of(reflection.ServerReflectionInfo(iter([asked])).read())).reason == "TOKEN_MISSING"
    answer = await reflection.ServerReflectionInfo(iter([asked]), metadata=bearing(CATALOG.token)).read()
    assert answer.list_services_response.service


async def test_a_call_that_does_not_exist_is_unimplemented(guarded):
    call = guarded.channel.unary_unary("/whylight.v1.ExplanationService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_callers_at_once_keep_their_own_names(guarded):
    guarded.engine.hold.clear()
    names = {}
    answer = guarded.engine.answer

    def told(work):
        names[work.spec.model] = current_caller().name
        return answer(work)

    guarded.engine.answer = told
    ask = explanations(guarded).Explain
    asked = [request(), request()]
    asked[0].model, asked[1].model = "one", "two"
    first = ask(asked[0], metadata=bearing(BOTH.token))
    await guarded.engine.arrived.get()
    assert (await failure_of(ask(asked[1], metadata=bearing(METRICS.token)))).reason == "SCOPE_MISSING"
    guarded.engine.hold.set()
    await asyncio.gather(first)
    assert names == {"one": "both"}


async def test_a_server_without_tokens_takes_any(served: Served):
    await explanations(served).Explain(request())
    await explanations(served).Explain(request(), metadata=bearing("anything"))


def test_every_call_has_a_scope():
    services = [
        *explanation_pb2.DESCRIPTOR.services_by_name.values(),
        *catalog_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    for service in services:
        for method in service.methods:
            assert scope_of(f"/{service.full_name}/{method.name}") in {Scope.EXPLAIN, Scope.CATALOG}
    assert scope_of("/whylight.v1.AdminService/LoadModel") is Scope.ADMIN
    assert scope_of("/inference.GRPCInferenceService/ModelInfer") is Scope.EXPLAIN
    assert scope_of("/inference.GRPCInferenceService/ServerMetadata") is Scope.CATALOG
    assert scope_of("/stranger.Service/Call") is None
    assert not any("Infer" in method.rpartition("/")[2] for method in FREE)
