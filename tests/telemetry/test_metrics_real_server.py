"""Metrics of a real server: every call counted once, with what came of it, whatever became of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import grpc
import pytest
from telemetry_serving import Gate, fetch, metrics_address, request, scrape, scrape_until, serving, stub_of

from whylight.testing.server import RunningServer
from whylight.v1 import catalog_pb2, catalog_pb2_grpc
from whylight.v1 import explanation_pb2 as v1

EXPLAIN = {"grpc_service": "whylight.v1.ExplanationService", "grpc_method": "Explain"}


def test_every_call_is_counted_once_with_what_came_of_it(server: RunningServer, gate: Gate) -> None:
    before = scrape(server)
    assert before.sum("whylight_requests_total") == 0
    with stub_of(server) as stub:

        def failed(sent: v1.ExplainRequest, timeout: float = 60) -> str:
            with pytest.raises(grpc.RpcError) as caught:
                stub.Explain(sent, timeout=timeout)
            return caught.value.code().name

        for _ in range(3):
            stub.Explain(request("plain"), timeout=60)
        stub.Explain(request("plain", "talking", inputs=2), timeout=60)
        assert stub.Explain(request("failing"), timeout=60).results[0].error.reason == "METHOD_FAILED"
        assert failed(request("plain", model="no such model")) == "NOT_FOUND"
        assert failed(request("no such method")) == "NOT_FOUND"
        assert failed(request("plain", secret=3)) == "INVALID_ARGUMENT"
        assert failed(request("plain", inputs=3)) == "INVALID_ARGUMENT"
        mixed = request("plain", inputs=2)
        mixed.inputs[1].Clear()
        mixed.inputs[1].image = b"no picture"
        assert [one.HasField("explained") for one in stub.Explain(mixed, timeout=60).results] == [True, False]
        # The first is at work, the second waits at the worker, two more in the queue; then there is no room.
        gated = request("gated", folder=gate.folder)
        open_calls = [stub.Explain.future(gated, timeout=60)]
        gate.wait()
        open_calls += [stub.Explain.future(gated, timeout=60) for _ in range(3)]
        # A scrape reads one figure after the other, while things go on: the last to be so may be any of them.
        waiting, computing, open_ = "whylight_queue_inputs", "whylight_in_flight_inputs", "whylight_open_requests"
        full = scrape_until(server, lambda seen: (seen.sum(waiting), seen.sum(computing), seen.sum(open_)) == (2, 2, 4))
        assert full.sum("whylight_queue_limit_inputs") == 2
        assert full.by("whylight_open_requests", "rpc") == {("Explain",): 4}
        assert failed(gated) == "RESOURCE_EXHAUSTED"
        open_calls[-1].cancel()
        scrape_until(server, lambda seen: seen.sum("whylight_requests_total", outcome="cancelled") == 1)
        gate.open(3)
        for call in open_calls[:-1]:
            call.result()

    # Behind the last answer comes the end of its batch, which the next test must not take for one of its own.
    after = scrape_until(server, lambda seen: seen.sum("whylight_batches_total", method="gated") == 3)
    assert after.by("whylight_requests_total", "model", "method", "outcome", "code", "reason") == {
        ("tiny", "plain", "ok", "OK", ""): 3,
        ("tiny", "plain", "invalid", "OK", "IMAGE_UNREADABLE"): 1,
        ("tiny", "several", "ok", "OK", ""): 1,
        ("tiny", "gated", "ok", "OK", ""): 3,
        ("tiny", "failing", "failed", "OK", "METHOD_FAILED"): 1,
        ("unknown", "plain", "invalid", "NOT_FOUND", "MODEL_NOT_FOUND"): 1,
        ("tiny", "unknown", "invalid", "NOT_FOUND", "METHOD_NOT_FOUND"): 1,
        ("tiny", "plain", "invalid", "INVALID_ARGUMENT", "OPTION_INVALID"): 1,
        ("tiny", "plain", "invalid", "INVALID_ARGUMENT", "TOO_MANY_INPUTS"): 1,
        ("tiny", "gated", "rejected", "RESOURCE_EXHAUSTED", "QUEUE_FULL"): 1,
        ("tiny", "gated", "cancelled", "CANCELLED", "CANCELLED"): 1,
    }
    calls = 15
    assert after.sum("whylight_requests_total") == calls
    assert after.sum("grpc_server_started_total", **EXPLAIN) == calls
    assert after.sum("grpc_server_handled_total", **EXPLAIN) == calls
    assert after.sum("grpc_server_handling_seconds_count", **EXPLAIN) == calls
    assert after.sum("grpc_server_msg_received_total", **EXPLAIN) == calls
    assert after.sum("grpc_server_msg_sent_total", **EXPLAIN) == 9
    assert after.by("grpc_server_handled_total", "grpc_code", "grpc_type")[("ResourceExhausted", "unary")] == 1
    assert after.sum("whylight_received_message_bytes_count", rpc="Explain") == calls
    assert after.sum("whylight_sent_message_bytes_count", rpc="Explain") == 9
    assert after.sum("whylight_request_seconds_count") == 7
    assert after.sum("whylight_open_requests") == 0
    assert after.by("whylight_inputs_total", "method", "code", "reason") == {
        ("plain", "OK", ""): 4,
        ("several", "OK", ""): 2,
        ("gated", "OK", ""): 3,
        ("gated", "CANCELLED", "CANCELLED"): 1,
        ("gated", "RESOURCE_EXHAUSTED", "QUEUE_FULL"): 1,
        ("failing", "INTERNAL", "METHOD_FAILED"): 1,
        ("plain", "INVALID_ARGUMENT", "IMAGE_UNREADABLE"): 1,
    }


def test_times_and_batches_agree_with_the_inputs(server: RunningServer) -> None:
    with stub_of(server) as stub:
        before = scrape(server)
        for _ in range(4):
            stub.Explain(request("plain", "talking", inputs=2), timeout=60)
    after = scrape_until(
        server, lambda seen: seen.sum("whylight_batches_total") == before.sum("whylight_batches_total") + 8
    )

    def grew(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    several = {"model": "tiny", "method": "several"}
    for name in ("whylight_queue_seconds", "whylight_compute_seconds"):
        assert grew(f"{name}_count", **several) == 8
    assert grew("whylight_decode_seconds_count", model="tiny") == 8
    for method in ("plain", "talking"):
        for name in ("whylight_method_seconds", "whylight_render_seconds"):
            assert grew(f"{name}_count", model="tiny", method=method) == 8
    assert grew("whylight_batch_size_inputs_sum", **several) == 8
    assert grew("whylight_batch_size_inputs_count", **several) == 8
    assert grew("whylight_batch_cost_evaluations_sum", **several) >= 8
    assert grew("whylight_batch_fill_ratio_sum", **several) == 8  # each is full with one input
    assert grew("whylight_batches_total", reason="full") == 8
    busy = grew("whylight_worker_busy_seconds_total", worker="0")
    assert busy <= grew("whylight_batch_seconds_sum")
    in_engine = grew("whylight_queue_seconds_sum") + grew("whylight_compute_seconds_sum")
    assert 0 < busy <= in_engine
    assert in_engine <= 2 * grew("whylight_request_seconds_sum", **several)  # two inputs wait at a time


def test_the_state_of_server_worker_and_model_is_told(server: RunningServer) -> None:
    seen = scrape(server)
    assert seen.sum("whylight_ready") == 1
    assert seen.by("whylight_build_info", "version") == {("0.1.0",): 1}
    assert seen.by("whylight_worker_up", "worker", "device") == {("0", "cpu"): 1}
    assert seen.by("whylight_worker_starts_total", "worker") == {("0",): 1}
    assert seen.by("whylight_model_ready", "model") == {("tiny",): 1}
    assert seen.sum("whylight_worker_start_seconds", worker="0") > 0
    assert 20e6 < seen.sum("whylight_worker_resident_memory_bytes", worker="0") < 20e9
    assert 20e6 < seen.sum("process_resident_memory_bytes") < 20e9
    assert scrape_until(server, lambda seen: seen.sum("whylight_event_loop_delay_seconds_count") >= 1)


def test_names_of_clients_make_no_series(server: RunningServer) -> None:
    def series() -> set[tuple[str, ...]]:
        return {(sample.name, *sorted(sample.labels.values())) for sample in scrape(server).samples}

    with stub_of(server) as stub:

        def ask(name: str) -> None:
            for sent in (request(name), request("plain", model=name), request("plain", name)):
                with contextlib.suppress(grpc.RpcError):
                    stub.Explain(sent, timeout=60)
            with grpc.insecure_channel(server.address) as channel, contextlib.suppress(grpc.RpcError):
                channel.unary_unary(f"/whylight.v1.ExplanationService/{name}")(b"", timeout=60)

        ask("first")
        before = series()
        for number in range(20):
            ask(f"name{number}")
        assert series() == before
    assert (
        scrape(server).by("grpc_server_handled_total", "grpc_service", "grpc_method", "grpc_code")[
            ("unknown", "unknown", "Unimplemented")
        ]
        == 21
    )


def test_each_message_of_a_stream_is_a_request(server: RunningServer) -> None:
    before = scrape(server)
    sent = [
        v1.StreamExplainRequest(id="a", request=request("plain")),
        v1.StreamExplainRequest(id="b", request=request("failing")),
        v1.StreamExplainRequest(id="c", request=request("plain", model="none")),
    ]
    with stub_of(server) as stub:
        assert len(list(stub.StreamExplain(iter(sent), timeout=60))) == 3
    after = scrape(server)
    counted = {
        key: value - before.by("whylight_requests_total", "rpc", "outcome").get(key, 0)
        for key, value in after.by("whylight_requests_total", "rpc", "outcome").items()
        if key[0] == "StreamExplain"
    }
    assert counted == {("StreamExplain", "ok"): 1, ("StreamExplain", "failed"): 1, ("StreamExplain", "invalid"): 1}
    stream = {"grpc_method": "StreamExplain", "grpc_type": "bidi_stream"}
    assert after.sum("grpc_server_handled_total", grpc_code="OK", **stream) == 1
    assert after.sum("grpc_server_msg_received_total", **stream) == 3
    assert after.sum("grpc_server_msg_sent_total", **stream) == 3


def test_a_deadline_that_passes_is_late_and_counted_once(server: RunningServer, gate: Gate) -> None:
    before = scrape(server)
    with stub_of(server) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Explain(request("gated", folder=gate.folder), timeout=3)  # time enough to arrive
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.open()
    late = {"outcome": "late", "code": "DEADLINE_EXCEEDED"}
    after = scrape_until(server, lambda seen: seen.sum("whylight_requests_total", **late) == 1)
    assert after.sum("whylight_requests_total") == before.sum("whylight_requests_total") + 1
    assert after.sum("whylight_inputs_total") == before.sum("whylight_inputs_total") + 1


def test_other_calls_are_counted_as_calls_and_not_as_requests(server: RunningServer) -> None:
    before = scrape(server)
    with grpc.insecure_channel(server.address) as channel:
        catalog_pb2_grpc.CatalogServiceStub(channel).ListModels(catalog_pb2.ListModelsRequest(), timeout=60)
    after = scrape(server)
    assert after.sum("grpc_server_handled_total", grpc_method="ListModels", grpc_code="OK") == 1
    assert after.sum("whylight_requests_total") == before.sum("whylight_requests_total")


def test_the_open_inference_protocol_is_counted_as_our_own(server: RunningServer) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=60)
    after = scrape(server)
    assert after.by("whylight_requests_total", "rpc", "model", "outcome")[("ModelInfer", "unknown", "invalid")] == 1
    infer = {"grpc_service": "inference.GRPCInferenceService", "grpc_method": "ModelInfer", "grpc_type": "unary"}
    assert after.sum("grpc_server_handled_total", **infer) == 1


def test_a_worker_that_is_lost_is_counted_and_so_is_what_it_held_and_text_says_so_to_people(tmp_path: Path) -> None:
    with serving(tmp_path, metrics={"port": 0}, logging={"requests": True}) as server, stub_of(server) as stub:
        stub.Explain(request("failing"), metadata=[("x-request-id", "mine")], timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Explain(request("dying"), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert scrape(server).by("whylight_requests_total", "outcome", "reason") == {
            ("failed", "WORKER_LOST"): 1,
            ("failed", "METHOD_FAILED"): 1,
        }
        server.wait_ready(60)
        after = scrape(server)
        assert after.by("whylight_worker_starts_total", "worker") == {("0",): 2}
        assert after.by("whylight_worker_losses_total", "worker") == {("0",): 1}
        assert after.sum("whylight_worker_up") == 1
        lines = server.log.splitlines()
    (line,) = (line for line in lines if "whylight.requests [mine]" in line)
    assert " INFO whylight.requests [mine] rpc=Explain model=tiny methods=failing inputs=1 code=OK " in line
    (failed,) = (number for number, line in enumerate(lines) if " ERROR " in line and "[mine]" in line)
    assert lines[failed].endswith(" [mine] worker 0: the method 'failing' of plugin 'observed' failed")
    assert lines[failed + 1] == "Traceback (most recent call last):"


def test_only_the_metrics_are_served(server: RunningServer) -> None:
    status, _ = fetch(metrics_address(server).replace("/metrics", "/"))
    assert status == 404
