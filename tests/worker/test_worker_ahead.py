"""A worker with a real model, whose inputs are sent to the device ahead: the very answers that it gives without."""

from __future__ import annotations

import io
import socket
import threading

import numpy as np
import pytest
from PIL import Image
from worker_serving import RESNET

from whylight.engine import frames
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.config import PluginChoice, WorkerConfig
from whylight.worker.loop import Loop
from whylight.worker.service import ExplainerService
from whylight.worker.v1 import worker_pb2

SPEC = worker_pb2.PlanSpec(
    model="resnet",
    generation=1,
    methods=[v1.MethodCall(name="grad-cam")],
    outputs=[v1.OutputSpec(name="map", map=v1.MapOutput())],
)


def picture(n: int) -> v1.Input:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (80, 100, 3), np.uint8)).save(buffer, "PNG")
    return v1.Input(image=buffer.getvalue())


INPUTS = [[picture(0), picture(1), v1.Input(image=b"no picture"), picture(2)], [picture(3)], [picture(4), picture(5)]]


def answers(service: ExplainerService) -> dict[int, bytes]:
    """Return the map of each input, or why there is none, of batches that come one behind the other."""
    ours, theirs = socket.socketpair()
    loop = Loop(theirs, service)
    runner = threading.Thread(target=loop.run)
    runner.start()
    for number, inputs in enumerate(INPUTS):
        items = [worker_pb2.Item(item_id=10 * number + n, input=one) for n, one in enumerate(inputs)]
        batch = worker_pb2.Batch(batch_id=number, spec=SPEC, items=items)
        frames.send(ours, worker_pb2.FrontEndFrame(batch=batch))
    frames.send(ours, worker_pb2.FrontEndFrame(drain=worker_pb2.Drain()))
    found = {}
    while (frame := frames.receive(ours, worker_pb2.WorkerFrame)) is not None and len(found) < 7:
        if frame.HasField("result"):
            result = frame.result.result
            explained = result.explained.explanations
            found[frame.result.item_id] = (
                explained[0].artifacts[0].tensor.data if explained else result.error.reason.encode()
            )
    runner.join(60)
    ours.close()
    theirs.close()
    return found


def test_inputs_that_are_sent_ahead_have_the_answers_of_those_that_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = ExplainerService.open(
        WorkerConfig(models=(RESNET,), plugins=PluginChoice(only=("cam", "torchvision")), device="cpu")
    )
    used: list[int] = []
    usual = service._explainer.explain

    def explain(plan, inputs, targets, seeds, cancels, watchers=(), ahead=None):
        if ahead is not None:
            used.append(len(inputs))
        made = usual(plan, inputs, targets, seeds, cancels, watchers, ahead)
        assert ahead is None or not ahead._groups, "all of it was taken"
        return made

    monkeypatch.setattr(service._explainer, "explain", explain)
    ahead = answers(service)
    assert used == [3, 1, 2]
    assert "could not be sent" not in caplog.text

    def fail(plan, items):
        raise MemoryError

    monkeypatch.setattr(service, "gather", fail)
    assert answers(service) == ahead
    assert used == [3, 1, 2]
    assert ahead[2] == b"IMAGE_UNREADABLE"
    assert len(set(ahead.values())) == 7
