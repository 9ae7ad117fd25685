"""A call whose deadline cannot be met is refused when it comes, and takes no time from others; over a real socket."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest
from fault_serving import Gate, bits, reason_of, request, serving

from whylight.v1 import explanation_pb2_grpc

SLOW = 1.0
"""Seconds that each explanation takes, for the test lets the method go on no sooner."""

BATCHES = 3
"""How many batches of a kind the server wants to have seen before it judges by them."""


def test_what_cannot_be_done_in_time_is_refused_at_once_and_what_waits_is_answered(tmp_path: Path) -> None:
    with (
        Gate.open(tmp_path / "gate") as gate,
        serving(tmp_path) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = explanation_pb2_grpc.ExplanationServiceStub(channel)
        for number in range(BATCHES):
            slow = stub.Explain.future(request(number, folder=gate.folder), timeout=120)
            assert gate.hear() == "compute 1"
            time.sleep(SLOW)
            gate.let(2)
            assert gate.hear() == "render 1"
            slow.result()
        running = stub.Explain.future(request(8, folder=gate.folder), timeout=120)
        assert gate.hear() == "compute 1"
        patient = stub.Explain.future(request(9, folder=gate.folder), timeout=120)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Explain(request(*range(16), folder=gate.folder), timeout=6)  # it takes sixteen seconds
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason_of(caught.value) == "DEADLINE_CANNOT_BE_MET"
        gate.let(100)
        assert len(bits(running.result()) + bits(patient.result())) == 2
        assert gate.hear() == "render 1"
        assert gate.hear() == "compute 1", "of those that were refused, none was tried"
