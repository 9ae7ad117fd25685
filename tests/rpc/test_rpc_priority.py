"""How urgent a call is and whose turns it uses up, from the wire to the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from rpc_serving import Served, failure_of, request

from whylight.errors import InvalidInput
from whylight.priority import Priority, as_priority
from whylight.v1 import explanation_pb2 as v1
from whylight.v1 import explanation_pb2_grpc
from whylight.wire import priority_from_proto, priority_to_proto


async def send(channel: grpc.aio.Channel, rpc: str, priority: int) -> None:
    """Make a call of a kind, and read all that it answers."""
    stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
    plain = request()
    plain.priority = priority
    match rpc:
        case "Explain":
            await stub.Explain(plain)
        case "Evaluate":
            await stub.Evaluate(
                v1.EvaluateRequest(
                    methods=plain.methods,
                    inputs=plain.inputs,
                    metrics=[v1.MetricCall(name="insertion")],
                    priority=priority,
                )
            )
        case "StreamExplain":

            async def requests() -> AsyncIterator[v1.StreamExplainRequest]:
                yield v1.StreamExplainRequest(id="1", request=plain)

            async for answer in stub.StreamExplain(requests()):
                assert not answer.HasField("error"), answer.error
        case "Synthesize":
            call = v1.SynthesizeRequest(method=plain.methods[0], targets=[v1.Target(class_index=1)], priority=priority)
            async for _ in stub.Synthesize(call):
                pass
        case "Inspect":
            async for _ in stub.Inspect(v1.InspectRequest(method=plain.methods[0], priority=priority)):
                pass


EVERY = ["Explain", "Evaluate", "StreamExplain", "Synthesize", "Inspect"]


def one_explanation(work: Any) -> list[v1.InputResult]:
    explained = v1.Explained(explanations=[v1.Explanation(method="m")])
    return [v1.InputResult(explained=explained) for _ in work.inputs]


@pytest.mark.parametrize("rpc", EVERY)
@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (v1.PRIORITY_UNSPECIFIED, Priority.INTERACTIVE),
        (v1.PRIORITY_INTERACTIVE, Priority.INTERACTIVE),
        (v1.PRIORITY_BULK, Priority.BULK),
    ],
)
async def test_a_priority_reaches_the_engine(served: Served, rpc: str, sent: int, meant: Priority) -> None:
    served.engine.answer = one_explanation
    await send(served.channel, rpc, sent)
    assert served.engine.works[-1].priority is meant


@pytest.mark.parametrize("rpc", ["Explain", "Evaluate"])
async def test_an_unknown_priority_is_refused_where_it_stands(served: Served, rpc: str) -> None:
    failure = await failure_of(send(served.channel, rpc, 77))
    assert (failure.reason, failure.fields) == ("REQUEST_INVALID", ["priority"])


async def test_every_call_of_a_connection_uses_up_the_same_turns(served: Served) -> None:
    served.engine.answer = one_explanation
    for rpc in EVERY:
        await send(served.channel, rpc, 0)
    async with grpc.aio.insecure_channel(served.address, [("grpc.use_local_subchannel_pool", 1)]) as other:
        await send(other, "Explain", 0)
    callers = [work.caller for work in served.engine.works]
    assert len(set(callers[: len(EVERY)])) == 1
    assert callers[-1] not in callers[: len(EVERY)]
    assert None not in callers


def test_priorities_survive_the_wire_and_have_words() -> None:
    for priority in Priority:
        assert priority_from_proto(priority_to_proto(priority)) is priority
        assert as_priority(priority.value) is as_priority(priority) is priority
    with pytest.raises(InvalidInput, match="'interactive' or 'bulk'"):
        as_priority("urgent")
