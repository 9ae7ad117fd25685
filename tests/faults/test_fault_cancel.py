"""One of four that share a batch is taken back, at each stage: the others have their own bits, and nothing is done that
had not begun for who went away. (MLServer hangs all of them; Ray Serve did.)"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_serving import Gate, bits, request, serving, sync

from whylight.testing.server import RunningServer
from whylight.v1 import explanation_pb2_grpc

MATES = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("cancel"), batching={"max_batch": MATES}) as running:
        yield running


@pytest.fixture(scope="module")
def alone(stub: explanation_pb2_grpc.ExplanationServiceStub) -> list[tuple[bytes, bytes]]:
    """What each of the four gets alone."""
    found = [bits(stub.Explain(request(number), timeout=120))[0] for number in range(MATES)]
    assert len(set(found)) == MATES
    return found


@pytest.mark.parametrize("victim", range(MATES))
@pytest.mark.parametrize("stage", ["queued", "in batch", "computing", "rendering"])
def test_who_goes_away_takes_nothing_from_the_others(
    stub: explanation_pb2_grpc.ExplanationServiceStub,
    alone: list[tuple[bytes, bytes]],
    tmp_path: Path,
    stage: str,
    victim: int,
) -> None:
    with Gate.open(tmp_path / "first") as first, Gate.open(tmp_path / "ours") as ours:
        # One batch computes and one waits at the worker, so that what comes next waits in the front end.
        running = stub.Explain.future(request(9, folder=first.folder, note="running"), timeout=120)
        assert first.hear() == "compute 1"
        ahead = stub.Explain.future(request(9, folder=first.folder, note="ahead"), timeout=120)
        sync(stub)
        mates = [stub.Explain.future(request(number, folder=ours.folder), timeout=120) for number in range(MATES)]
        sync(stub)

        def take_back() -> None:
            assert mates[victim].cancel()
            sync(stub)

        if stage == "queued":
            take_back()
        first.let(2)  # it computes, and renders
        assert first.hear() == "render 1"
        running.result()
        assert first.hear() == "compute 1"
        sync(stub)
        if stage == "in batch":
            take_back()
        first.let(2)
        ahead.result()
        left = MATES - (stage in ("queued", "in batch"))
        assert ours.hear() == f"compute {left}", "nothing is done for who went away before it began"
        if stage == "computing":
            take_back()
        ours.let()
        assert ours.hear() == f"render {left}"
        if stage == "rendering":
            take_back()
        ours.let()
        for number, call in enumerate(mates):
            if number != victim:
                assert bits(call.result()) == [alone[number]]
        assert mates[victim].cancelled()
    assert bits(stub.Explain(request(*range(MATES)), timeout=120)) == alone, "nothing is left over"
