"""Traces of a real server, as a collector gets them over OTLP."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from collector import Collector, collecting, values
from infer_requests import Stub, infer
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from telemetry_serving import PIXELS, request, serving, stub_of

import whylight
from whylight.errors import WhylightError
from whylight.v1 import explanation_pb2 as v1

CALL = "whylight.v1.ExplanationService/Explain"
STREAM = "whylight.v1.ExplanationService/StreamExplain"


def context(number: int, *, sampled: bool = True) -> SpanContext:
    return SpanContext(number, number, is_remote=True, trace_flags=TraceFlags(int(sampled)))


@dataclass
class Seen:
    collector: Collector
    mates: list[SpanContext]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """What a collector has after two calls that shared a batch, one that failed, a stream, and an untraced one."""
    with collecting() as collector:
        with (
            serving(
                tmp_path_factory.mktemp("plugin"),
                tracing={"enabled": True, "endpoint": collector.address, "ratio": 0.0, "service_name": "mine"},
                batching={"max_batch": 2, "max_delay_seconds": 60.0},
            ) as server,
            whylight.Client(server.address) as client,
            stub_of(server) as stub,
        ):
            mates = [context(11), context(12)]

            def explain(parent: SpanContext, *methods: str, model: str = "") -> None:
                with trace.use_span(NonRecordingSpan(parent)), contextlib.suppress(WhylightError):
                    client.explain(PIXELS, methods, model=model)

            silent, untraced = (explain, context(14, sampled=False), "plain"), (client.explain, PIXELS, "plain")
            with ThreadPoolExecutor(2) as pool:
                # Only who shares a batch is answered: it leaves when it is full.
                for pair in ([(explain, mate, "plain") for mate in mates], [silent, untraced]):
                    for done in [pool.submit(*call) for call in pair]:
                        done.result()
            explain(context(13), "plain", model="none")
            metadata = [("traceparent", "00-000000000000000000000000000000ff-00000000000000ff-01")]
            messages = [v1.StreamExplainRequest(id=name, request=request("plain", "talking")) for name in "ab"]
            assert len(list(stub.StreamExplain(iter(messages), metadata=metadata, timeout=60))) == 2
            inferred = infer("tiny.plain", IMAGE=np.stack([PIXELS, PIXELS]))
            metadata = [("traceparent", "00-00000000000000000000000000000100-0000000000000100-01")]
            with grpc.insecure_channel(server.address) as channel:
                Stub(channel).ModelInfer(inferred, metadata=metadata, timeout=60)
        yield Seen(collector, mates)


def parent_of(span: Any) -> int:
    return int.from_bytes(span.parent_span_id, "big")


def trace_of(span: Any) -> int:
    return int.from_bytes(span.trace_id, "big")


def test_a_call_is_a_span_of_its_clients_trace(seen: Seen) -> None:
    calls = seen.collector.named(CALL)
    assert sorted((trace_of(span), parent_of(span)) for span in calls) == [(11, 11), (12, 12), (13, 13)]
    sound = next(span for span in calls if trace_of(span) == 11)
    told = values(sound.attributes)
    assert told.pop("whylight.request_id")
    assert told == {
        "rpc.system.name": "grpc",
        "rpc.method": CALL,
        "rpc.response.status_code": "OK",
        "whylight.model": "tiny",
        "whylight.methods": ["plain"],
        "whylight.inputs": 1,
    }
    assert sound.kind == sound.SPAN_KIND_SERVER
    assert sound.end_time_unix_nano > sound.start_time_unix_nano
    resource = seen.collector.resource
    assert (resource["service.name"], resource["service.version"]) == ("mine", whylight.__version__)


def test_a_call_that_failed_says_how(seen: Seen) -> None:
    failed = next(span for span in seen.collector.named(CALL) if trace_of(span) == 13)
    told = values(failed.attributes)
    assert (told["rpc.response.status_code"], told["error.type"]) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert failed.status.code == failed.status.STATUS_CODE_UNSET  # the client's fault is no error of the server


def test_a_batch_has_a_link_to_every_call_in_it(seen: Seen) -> None:
    calls = {span.span_id: trace_of(span) for span in seen.collector.named(CALL)}
    batch = next(span for span in seen.collector.named("batch") if len(span.links) == 2)
    assert {calls[link.span_id] for link in batch.links} == {11, 12}
    assert not batch.parent_span_id
    assert trace_of(batch) not in (11, 12)
    told = values(batch.attributes)
    assert (told["whylight.inputs"], told["whylight.batch.reason"], told["whylight.worker"]) == (2, "full", 0)
    assert batch.end_time_unix_nano > batch.start_time_unix_nano


def test_a_call_of_the_open_inference_protocol_is_traced_as_any_other(seen: Seen) -> None:
    (call,) = seen.collector.named("inference.GRPCInferenceService/ModelInfer")
    assert (trace_of(call), parent_of(call)) == (256, 256)
    (batch,) = (
        span for span in seen.collector.named("batch") if [link.span_id for link in span.links] == [call.span_id]
    )
    assert values(batch.attributes)["whylight.inputs"] == 2
    phases = {span.name for span in seen.collector.spans if span.parent_span_id == call.span_id}
    assert phases == {"queue", "decode", "compute", "render"}


def test_the_phases_of_an_input_are_children_one_after_the_other(seen: Seen) -> None:
    call = next(span for span in seen.collector.named(CALL) if trace_of(span) == 11)
    phases = {span.name: span for span in seen.collector.spans if span.parent_span_id == call.span_id}
    assert set(phases) == {"queue", "decode", "compute", "render"}
    # Clocks are read one after the other: how far apart, the machine decides, but all is within the call.
    assert call.start_time_unix_nano - 50e6 < phases["queue"].start_time_unix_nano
    assert phases["render"].end_time_unix_nano < call.end_time_unix_nano + 50e6
    ends = [phases[name].end_time_unix_nano for name in ("queue", "compute", "render")]
    begins = [phases[name].start_time_unix_nano for name in ("compute", "render")]
    assert begins == ends[:2]
    assert phases["decode"].end_time_unix_nano == ends[0]
    assert values(phases["compute"].attributes) == {"whylight.input": 0, "whylight.method": "plain"}


def test_each_request_of_a_stream_is_a_span_within_the_streams(seen: Seen) -> None:
    (stream,) = seen.collector.named(STREAM)
    assert (trace_of(stream), parent_of(stream)) == (255, 255)
    requests = seen.collector.named("request")
    assert [span.parent_span_id for span in requests] == [stream.span_id] * 2
    assert all(values(span.attributes)["whylight.methods"] == ["plain", "talking"] for span in requests)
    computed = [span for span in seen.collector.named("compute") if span.parent_span_id == requests[0].span_id]
    assert [values(span.attributes)["whylight.method"] for span in computed] == ["plain", "talking"]


def test_what_is_not_to_be_traced_leaves_nothing(seen: Seen) -> None:
    # The client said no (14), or said nothing where the server traces no share of such calls.
    assert {trace_of(span) for span in seen.collector.spans if span.name != "batch"} == {11, 12, 13, 255, 256}


def test_without_the_package_the_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from whylight.settings import Settings
    from whylight.telemetry.telemetry import Telemetry, TelemetryError

    monkeypatch.setitem(sys.modules, "whylight.telemetry.otlp", None)
    with pytest.raises(TelemetryError, match=r"whylight\[telemetry\]"):
        Telemetry(Settings(tracing={"enabled": True}))


def test_a_client_sends_the_trace_that_it_is_in() -> None:
    from whylight.client.connection import Connection

    assert Connection().metadata() == []
    with TracerProvider().get_tracer("test").start_as_current_span("mine") as span:
        sent = dict(Connection().metadata())
        told = span.get_span_context()
        assert sent == {"traceparent": f"00-{told.trace_id:032x}-{told.span_id:016x}-{told.trace_flags:02x}"}
        own = [("traceparent", "00-0000000000000000000000000000000b-000000000000000b-01")]
        assert Connection(extra=own).metadata() == own
