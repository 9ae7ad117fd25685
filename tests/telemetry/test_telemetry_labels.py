"""Labels: few, whatever comes; and the metrics by the rules of those who read them."""

from __future__ import annotations

import os
import re

from whylight.telemetry.calls import METHODS_KEPT, NAME_KEPT, Call, Rpc, describe
from whylight.telemetry.labels import REASONS, Names, Reasons, outcome, worst
from whylight.telemetry.listing import all_metrics
from whylight.telemetry.metrics import in_go
from whylight.telemetry.observers import Deaf
from whylight.telemetry.state import resident_bytes
from whylight.v1 import catalog_pb2
from whylight.worker.v1 import worker_pb2


class Catalog:
    """A catalog that grows."""

    def __init__(self) -> None:
        self.ready: worker_pb2.Ready | None = None
        self.asked = 0

    def __call__(self) -> worker_pb2.Ready | None:
        self.asked += 1
        return self.ready

    def offer(self, model: str, method: str) -> None:
        self.ready = worker_pb2.Ready(models=[catalog_pb2.Model(name=model)], methods=[catalog_pb2.Method(name=method)])


def test_only_names_of_the_catalog_are_labels() -> None:
    catalog = Catalog()
    names = Names(catalog)
    assert (names.model("a"), names.method(["m"])) == ("unknown", "unknown")
    catalog.offer("a", "m")
    assert (names.model("a"), names.method(["m"])) == ("a", "m")
    assert (names.model("b"), names.method(["n"])) == ("unknown", "unknown")
    assert (names.method([]), names.method(["m", "n"]), names.model("")) == ("unknown", "several", "unknown")
    catalog.offer("b", "n")  # such as a model that was loaded since
    assert (names.model("b"), names.method(["n"])) == ("b", "n")
    asked = catalog.asked
    assert (names.model("a"), names.method(["m"])) == ("a", "m")
    assert catalog.asked == asked


def test_reasons_that_plugins_make_up_are_one_in_the_end() -> None:
    reasons = Reasons()
    assert (reasons.reason(""), reasons.reason("QUEUE_FULL")) == ("", "QUEUE_FULL")
    assert {reasons.reason(text) for text in ("lower", "WITH SPACE", "X" * 64, "ÜBER")} == {"OTHER"}
    found = {reasons.reason(f"MADE_UP_{number}") for number in range(10 * REASONS)}
    assert "OTHER" in found
    assert len(found) <= REASONS
    assert reasons.reason("QUEUE_FULL") == "QUEUE_FULL"


def test_outcomes_say_whose_matter_it_is() -> None:
    assert [outcome(code) for code in ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL")] == [
        "ok",
        "invalid",
        "rejected",
        "cancelled",
        "failed",
    ]
    assert outcome("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED") == "late"
    assert (outcome("UNAVAILABLE", "DRAINING"), outcome("UNAVAILABLE", "WORKER_LOST")) == ("rejected", "failed")
    assert outcome("SOMETHING_NEW") == "failed"
    assert worst([("OK", "")]) == ("ok", "")
    assert worst([("OK", ""), ("INTERNAL", "METHOD_FAILED"), ("INVALID_ARGUMENT", "X")]) == ("failed", "METHOD_FAILED")


def test_codes_are_spelled_as_in_go() -> None:
    assert [in_go(code) for code in ("OK", "CANCELLED", "DEADLINE_EXCEEDED", "NOT_FOUND")] == [
        "OK",
        "Canceled",
        "DeadlineExceeded",
        "NotFound",
    ]


def test_names_follow_the_rules_of_prometheus() -> None:
    """Those of promtool check metrics, and units that are base units."""
    metrics = all_metrics()
    assert len(metrics) > 40
    assert len({metric.name for metric in metrics}) == len(metrics)
    units = ("seconds", "bytes", "ratio", "inputs", "evaluations", "info", "ready", "up", "total")
    for metric in metrics:
        name = metric.name
        assert re.fullmatch(r"(whylight|grpc_server)(_[a-z]+)+", name), name
        assert metric.help.endswith("."), name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|count|sum|bucket|gauge|counter|histogram)(_|$)", name)
        assert name.endswith("_total") == (metric.type == "counter"), name
        if metric.type != "counter":
            assert name.endswith(units) or name == "whylight_open_requests", name


def test_memory_is_read_of_processes_that_there_are() -> None:
    assert (resident_bytes(os.getpid()) or 0) > 10e6
    assert resident_bytes(2**22 + 1) is None


def test_names_of_clients_are_kept_up_to_a_length() -> None:
    call = Call(Deaf(), Rpc("whylight.v1.ExplanationService", "Explain", "unary"), "id")
    call.begin(())
    request = call.request
    assert request is not None
    describe("m" * 10_000, ["a" * 10_000] * 1000, 1)
    assert request.model == "m" * NAME_KEPT
    assert request.methods == ("a" * NAME_KEPT,) * METHODS_KEPT
    call.end("OK")
