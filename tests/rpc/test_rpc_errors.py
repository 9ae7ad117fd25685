"""Errors as statuses: what a client may rely on, and what it must never see."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from unittest.mock import Mock

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st
from rpc_serving import Served, failure_of, request, serving

import whylight
from whylight import errors
from whylight.errors import InvalidInput, MethodFailed, Overloaded, Violation, WhylightError
from whylight.rpc import interceptors
from whylight.rpc.errors import STATUS_BYTES, to_status, to_trailers
from whylight.telemetry.calls import Call, Observer, Rpc
from whylight.v1 import catalog_pb2_grpc, explanation_pb2_grpc

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WhylightError)]
PACKAGE = Path(whylight.__file__).parent
README = PACKAGE.parent.parent / "proto" / "whylight" / "v1" / "README.md"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_grpc_code(kind: type[WhylightError]):
    code, message, _ = to_trailers(kind("what is wrong"))
    assert (code.name, message) == (kind.code.name, "what is wrong")


def test_a_status_says_reason_fields_and_when_to_come_again():
    error = Overloaded(
        "full", violations=[Violation("inputs[3]", "too many"), Violation("inputs[4]", "too")], retry_after=1.25
    )
    status = to_status(error)
    info, retry, bad_request = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.BadRequest(),
    )
    for detail, message in zip(status.details, (info, retry, bad_request), strict=True):
        assert detail.Unpack(message)
    assert (info.reason, info.domain) == ("QUEUE_FULL", "whylight")
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 250_000_000)
    assert [violation.field for violation in bad_request.field_violations] == ["inputs[3]", "inputs[4]"]
    assert dict(to_trailers(error)[2])["grpc-retry-pushback-ms"] == "1250"


@given(
    message=st.text(max_size=3000),
    fields=st.lists(st.tuples(st.text(max_size=500), st.text(max_size=2000)), max_size=60),
    metadata=st.dictionaries(st.text(min_size=1, max_size=100), st.text(max_size=3000), max_size=20),
)
def test_a_status_never_outgrows_the_trailers(message, fields, metadata):
    error = InvalidInput(message, violations=[Violation(*field) for field in fields], metadata=metadata, retry_after=1)
    status = to_status(error)
    assert status.ByteSize() <= STATUS_BYTES
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "REQUEST_INVALID"
    if fields:
        assert len(status.details) == 3


async def test_the_largest_status_arrives(served: Served):
    """Percent-encoding triples the message: it must still be below the 8 KiB that clients take."""

    def refuse(work):
        raise InvalidInput("ü" * 5000, violations=[Violation("ü" * 500, "ü" * 2000)] * 100, metadata={"a": "ü" * 5000})

    served.engine.answer = refuse
    failure = await failure_of(explain(served)(request()))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "REQUEST_INVALID"
    assert 3000 < failure.size <= STATUS_BYTES


async def test_a_fault_of_ours_tells_an_id_and_no_secret(served: Served, caplog: pytest.LogCaptureFixture):
    def crash(work):
        raise ValueError("/secret/path")

    served.engine.answer = crash
    failure = await failure_of(explain(served)(request(), metadata=(("x-request-id", "call-17"),)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert failure.metadata == {"request_id": "call-17"}
    assert "secret" not in str(failure.details) + failure.message
    assert "ValueError" not in str(failure.details) + failure.message
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "/secret/path" in str(record.exc_info[1])


@pytest.mark.parametrize("sent", ["", "x" * 65, "two words"])
async def test_an_id_that_does_not_belong_into_a_log_is_replaced(served: Served, sent: str):
    call = explain(served)(request(), metadata=(("x-request-id", sent),))
    await call
    answered = dict(await call.trailing_metadata())["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", answered)


async def test_an_id_of_the_caller_comes_back(served: Served):
    call = explain(served)(request(), metadata=(("x-request-id", "7:a.b-c"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "7:a.b-c"


async def test_bytes_that_are_no_message_are_refused_by_name(served: Served):
    call = served.channel.unary_unary("/whylight.v1.ExplanationService/Explain")(b"\xff\xff\xff")
    failure = await failure_of(call)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")


async def test_a_message_over_the_limit_does_not_reach_the_server():
    async with serving(limits={"message_bytes": 1000}) as served:
        big = request()
        big.inputs[0].image = b"x" * 1001
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await explain(served)(big)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await explain(served)(big, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert served.engine.works == []
        assert (await explain(served)(request())).results


async def test_an_answer_over_the_limit_is_refused_by_name():
    async with serving(server={"response_bytes": 500}) as served:
        failure = await failure_of(explain(served)(request(classes=tuple(range(100)))))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RESPONSE_TOO_LARGE")
        assert (await explain(served)(request())).results


async def test_a_method_that_fails_is_named(served: Served):
    def fail(work):
        raise MethodFailed("'cam' failed", metadata={"plugin": "cam", "method": "cam"})

    served.engine.answer = fail
    failure = await failure_of(explain(served)(request()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "METHOD_FAILED")
    assert failure.metadata == {"plugin": "cam", "method": "cam"}


async def test_an_unknown_call_is_unimplemented(served: Served):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.channel.unary_unary("/whylight.v1.ExplanationService/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def reasons_in_the_code() -> set[tuple[str, str]]:
    """Every reason that some raise or class gives, with its code; those that are put together are spelled out here."""
    found = {(kind.default_reason, kind.code.name) for kind in KINDS}
    counted = ("INPUTS", "METHODS", "METRICS", "OUTPUTS", "TARGETS")
    found |= {(f"TOO_MANY_{things}", "INVALID_ARGUMENT") for things in counted}
    found |= {("METHOD_NOT_FOUND", "NOT_FOUND")}
    codes = {kind.__name__: kind.code.name for kind in KINDS}
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent.parent / "plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in codes:
                reasons = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
                found |= {(reason.value, codes[node.func.id]) for reason in reasons if isinstance(reason, ast.Constant)}
    return found


def test_the_list_of_reasons_is_complete():
    listed = set(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", README.read_text(), re.MULTILINE))
    assert listed == reasons_in_the_code()
    rows = re.findall(r"^\| `([A-Z_]+)` \|", README.read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))


def explain(served: Served):
    return explanation_pb2_grpc.ExplanationServiceStub(served.channel).Explain


def catalog(served: Served):
    return catalog_pb2_grpc.CatalogServiceStub(served.channel)


@pytest.mark.parametrize(
    ("remaining", "code"),
    [(None, "CANCELLED"), (0.0, "DEADLINE_EXCEEDED"), (0.2, "DEADLINE_EXCEEDED"), (2.0, "CANCELLED")],
)
def test_who_breaks_a_call_off_as_its_deadline_passes_is_late_and_has_not_gone_away(remaining, code):
    """The client's clock runs out first, by what the call took to arrive."""
    observer = Mock(Observer)
    call = Call(observer, Rpc("service", "Method", "unary"), "id")
    interceptors._end_early(call, Mock(time_remaining=lambda: remaining))
    (ended,) = observer.call_ended.call_args_list
    assert ended.args[1:3] == (code, code)
