"""Rates of callers on a real socket: what is refused, what is said, and that others do not feel it."""

from __future__ import annotations

import grpc
import pytest
from rpc_serving import failure_of, request, serving

from whylight.security.new_token import new_token
from whylight.v1 import catalog_pb2, catalog_pb2_grpc, explanation_pb2_grpc
from whylight.v1 import explanation_pb2 as v1

RARE = 1e-3
"""A call in a thousand seconds: no test is as slow as that."""


def bearing(token):
    return (("authorization", f"Bearer {token.token}"),)


@pytest.fixture
async def guarded(tmp_path):
    few = new_token("few", ["explain", "catalog"], calls_per_second=RARE)
    many = new_token("many", ["explain", "catalog"])
    path = tmp_path / "tokens.toml"
    path.write_text(few.lines + many.lines)
    path.chmod(0o600)
    settings = {"tokens_file": str(path)}
    async with serving(authentication=settings) as served:
        yield served, bearing(few), bearing(many)


async def test_who_calls_too_often_is_told_when_to_come_again(guarded):
    served, few, many = guarded
    stub = explanation_pb2_grpc.ExplanationServiceStub(served.channel)
    await stub.Explain(request(), metadata=few)
    failure = await failure_of(stub.Explain(request(), metadata=few))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert failure.quotas == ["caller:few"]
    assert 900 < failure.retry_seconds <= 1000
    assert int(failure.trailers["grpc-retry-pushback-ms"]) == pytest.approx(failure.retry_seconds * 1000, abs=2)
    assert failure.metadata == {"caller": "few", "limit": "calls_per_second", "rate": "0.001"}
    for _ in range(20):
        await stub.Explain(request(), metadata=many)
    assert len(served.engine.works) == 21


async def test_each_request_of_a_stream_counts(guarded):
    served, few, _ = guarded
    stream = explanation_pb2_grpc.ExplanationServiceStub(served.channel).StreamExplain(metadata=few)
    for name in ("first", "second"):
        await stream.write(v1.StreamExplainRequest(id=name, request=request()))
    await stream.done_writing()
    answers = {answer.id: answer async for answer in stream}
    assert answers["first"].HasField("response")
    assert answers["second"].error.reason == "RATE_LIMITED"
    assert answers["second"].error.retry_delay.seconds >= 900


async def test_the_catalog_counts_too(guarded):
    served, few, _ = guarded
    stub = catalog_pb2_grpc.CatalogServiceStub(served.channel)
    await stub.ListMethods(catalog_pb2.ListMethodsRequest(), metadata=few)
    assert (await failure_of(stub.ListMethods(catalog_pb2.ListMethodsRequest(), metadata=few))).reason == "RATE_LIMITED"


async def test_without_tokens_the_rate_is_that_of_all_together():
    async with serving(authentication={"calls_per_second": RARE}) as served:
        stub = explanation_pb2_grpc.ExplanationServiceStub(served.channel)
        await stub.Explain(request())
        failure = await failure_of(stub.Explain(request()))
        assert (failure.reason, failure.quotas) == ("RATE_LIMITED", ["caller:anonymous"])
