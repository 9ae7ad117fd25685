"""What an SRE who knows Triton's metrics looks for has its counterpart here, in base units, with the same meaning."""

from __future__ import annotations

import pytest
from telemetry_serving import Gate, request, scrape, scrape_until, stub_of

from whylight.telemetry.listing import all_metrics
from whylight.testing.server import RunningServer

OF_TRITON = {
    "nv_inference_request_success": ("whylight_requests_total", "counter", {"model", "outcome"}),
    "nv_inference_request_failure": ("whylight_requests_total", "counter", {"model", "outcome", "code", "reason"}),
    "nv_inference_count": ("whylight_inputs_total", "counter", {"model", "outcome"}),
    "nv_inference_exec_count": ("whylight_batches_total", "counter", {"model", "reason"}),
    "nv_inference_pending_request_count": ("whylight_queue_inputs", "gauge", set()),
    "nv_inference_request_duration_us": ("whylight_request_seconds", "histogram", {"model"}),
    "nv_inference_queue_duration_us": ("whylight_queue_seconds", "histogram", {"model"}),
    "nv_inference_compute_input_duration_us": ("whylight_decode_seconds", "histogram", {"model"}),
    "nv_inference_compute_infer_duration_us": ("whylight_method_seconds", "histogram", {"model"}),
    "nv_inference_compute_output_duration_us": ("whylight_render_seconds", "histogram", {"model"}),
    "nv_model_load_duration_secs": ("whylight_model_load_seconds", "gauge", {"model"}),
    "nv_cache_num_hits_per_model": ("whylight_response_cache_lookups_total", "counter", {"result"}),
    "nv_cpu_memory_used_bytes": ("whylight_worker_resident_memory_bytes", "gauge", {"worker"}),
    # Of Ray Serve and TF Serving: how large batches are, and how well they are filled.
    "serve_actual_batch_size": ("whylight_batch_size_inputs", "histogram", {"model"}),
    "serve_batch_execution_time_ms": ("whylight_batch_seconds", "histogram", {"model"}),
    "serve_batch_utilization_percent": ("whylight_batch_fill_ratio", "histogram", {"model"}),
    # Of every gRPC server.
    "grpc_server_started_total": ("grpc_server_started_total", "counter", {"grpc_service", "grpc_method"}),
    "grpc_server_handled_total": ("grpc_server_handled_total", "counter", {"grpc_method", "grpc_code"}),
    "grpc_server_handling_seconds": ("grpc_server_handling_seconds", "histogram", {"grpc_method"}),
}


@pytest.mark.parametrize("theirs", OF_TRITON)
def test_what_others_count_is_counted_here(theirs: str) -> None:
    name, kind, labels = OF_TRITON[theirs]
    (ours,) = (metric for metric in all_metrics() if metric.name == name)
    assert ours.type == kind
    assert labels <= set(ours.labels)


def test_every_duration_that_is_counted_can_be_added_up_and_cut_into_percentiles() -> None:
    """Triton had sums only, for years (its issues 3060 and 7672)."""
    times = {metric.name: metric.type for metric in all_metrics() if metric.name.endswith("_seconds")}
    gauges = {name for name, kind in times.items() if kind != "histogram"}
    assert gauges == {"whylight_worker_start_seconds", "whylight_model_load_seconds"}, "that happen once in a while"


def test_pending_is_what_waits_and_neither_what_is_worked_on_nor_what_was_refused(
    server: RunningServer, gate: Gate
) -> None:
    before = scrape(server)
    with stub_of(server) as stub:
        calls = [stub.Explain.future(request("gated", folder=gate.folder), timeout=120)]
        gate.wait()
        calls += [stub.Explain.future(request("gated", folder=gate.folder), timeout=120) for _ in range(3)]
        # One is computed and one is ahead of it at the worker; two wait, and the queue has no place for more.
        held = scrape_until(server, lambda seen: seen.sum("whylight_queue_inputs") == 2)
        assert held.sum("whylight_in_flight_inputs") == 2
        assert held.sum("whylight_open_requests") == 4
        refused = [stub.Explain.future(request("gated", folder=gate.folder), timeout=120) for _ in range(2)]
        assert all(call.exception() is not None for call in refused)
        after = scrape(server)
        assert after.sum("whylight_queue_inputs") == 2
        assert after.sum("whylight_queue_evaluations") == held.sum("whylight_queue_evaluations") > 0
        assert after.sum("whylight_queue_bytes") == held.sum("whylight_queue_bytes") > 0
        gate.open(4)
        for call in calls:
            call.result()
    done = scrape_until(
        server, lambda seen: seen.sum("whylight_batches_total") == before.sum("whylight_batches_total") + 4
    )
    for gauge in ("queue_inputs", "queue_evaluations", "queue_bytes", "in_flight_inputs", "open_requests"):
        assert done.sum(f"whylight_{gauge}") == 0
    ended = {
        outcome: done.sum("whylight_requests_total", outcome=outcome)
        - before.sum("whylight_requests_total", outcome=outcome)
        for outcome in ("ok", "rejected")
    }
    assert ended == {"ok": 4, "rejected": 2}
    waited = done.sum("whylight_queue_seconds_sum", method="gated") - before.sum(
        "whylight_queue_seconds_sum", method="gated"
    )
    assert waited > 0
