"""Inputs on their way to the device: nothing is changed, wherever it is."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import whylight
from whylight import MapOutput
from whylight.errors import Cancelled
from whylight.explainer import Explainer
from whylight.explainer.gathering import CudaPassage, Passage, Sender, gathered
from whylight.models import wrap_module
from whylight.models.companion import Companion
from whylight.plugins import OfferedMethod
from whylight.subject import CancelToken


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16, np.int64])
def test_arrays_come_one_behind_the_other(device, dtype):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    chance = np.random.default_rng(0)
    arrays = [chance.integers(0, 100, (5, 7, 3)).astype(dtype) for _ in range(4)]
    for array in arrays:
        array.setflags(write=False)  # as those that are views of a message
    together = gathered(arrays, torch.device(device))
    assert together.device.type == device
    assert torch.equal(together.cpu(), torch.from_numpy(np.stack(arrays)))


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


CHANCE = np.random.default_rng(1)
INPUTS = [
    png(CHANCE.integers(0, 256, (60, 90, 3), np.uint8)),
    CHANCE.standard_normal((3, 32, 32)).astype(np.float32),
    CHANCE.standard_normal((3, 34, 35)).astype(np.float32),
    CHANCE.integers(0, 256, (48, 40, 3), np.uint8),
    CHANCE.standard_normal((3, 32, 32)).astype(np.float32),
    CHANCE.standard_normal((3, 34, 35)).astype(np.float32),
]
"""Pictures and arrays of two shapes, side by side."""


class Squares(whylight.Attribution):
    """The sum of the input's squares; `batches` are the inputs that it was given."""

    name = "squares"

    def __init__(self) -> None:
        self.batches: list[torch.Tensor] = []

    def attribute(self, subject, batch, options):
        self.batches.append(batch.inputs.clone())
        return batch.inputs.square().sum(1)[list(batch.rows)]


class Recorder(Passage):
    """A way to a device that takes note of what is done on it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.received: list[torch.Tensor] = []

    @contextmanager
    def sending(self):
        self.events.append("begin")
        yield
        self.events.append("end")

    def sent(self):
        self.events.append("sent")
        return len(self.events)

    def receive(self, sent, tensors):
        assert self.events[sent - 1] == "sent"
        self.events.append("receive")
        self.received += tensors


def outcome(explained) -> object:
    if not isinstance(explained, whylight.Explained):
        return type(explained)
    (one,) = explained.explanations
    return one.artifacts[0].array.tobytes(), one.target_score, explained.predictions


@pytest.fixture
def both(explainer_of, model):
    """Explain with the inputs sent ahead and without; return what came of each way."""

    def run(method, cancelled=(), inputs=INPUTS, passage=None):
        explainer = explainer_of(method)
        plan = explainer.plan(model.name, method.name, {}, outputs=(MapOutput(),))
        decoded = [explainer.decode(plan, data) for data in inputs]
        made = []
        for ahead in (None, Sender(passage or Passage()).send(model, decoded)):
            cancels = [CancelToken() for _ in decoded]
            for place in cancelled:
                cancels[place].cancel()
            everything = explainer.explain(
                plan, decoded, [()] * len(decoded), [(0,)] * len(decoded), cancels, ahead=ahead
            )
            made.append([outcome(one) for one in everything])
        return made

    return run


@pytest.mark.parametrize("cancelled", [(), (0,), (1, 4), (0, 3), (2, 5), (0, 1, 2, 3, 4, 5), (5, 0)])
def test_what_was_sent_ahead_gives_the_same_bits_whoever_is_cancelled_meanwhile(both, cancelled) -> None:
    method = Squares()
    at_once, ahead = both(method, cancelled)
    assert ahead == at_once
    assert [n for n, one in enumerate(ahead) if one is Cancelled] == sorted(cancelled)
    half = len(method.batches) // 2
    for one, other in zip(method.batches[:half], method.batches[half:], strict=True):
        assert torch.equal(one, other)


def test_a_method_that_spoils_its_inputs_spoils_nothing_of_who_tries_again(both) -> None:
    class Spoiling(Squares):
        def attribute(self, subject, batch, options):
            made = super().attribute(subject, batch, options)
            if len(batch.inputs) > 1:
                batch.inputs.zero_()
            return made

    at_once, ahead = both(Spoiling(), inputs=[INPUTS[1], INPUTS[4]])
    assert ahead == at_once
    assert all(isinstance(one, tuple) for one in ahead), "alone, none of them was spoiled"


def test_without_memory_a_batch_is_halved_as_ever(both) -> None:
    class Poor(Squares):
        def attribute(self, subject, batch, options):
            if len(batch.inputs) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().attribute(subject, batch, options)

    at_once, ahead = both(Poor())
    assert ahead == at_once
    assert all(isinstance(one, tuple) for one in ahead)


def test_everything_is_received_before_it_is_used_and_sent_on_its_own_way(both) -> None:
    passage = Recorder()
    method = Squares()
    both(method, passage=passage)
    assert passage.events == ["begin", "end", "sent", "receive", "receive"]
    assert sorted(tuple(one.shape) for one in passage.received) == [(2, 3, 32, 32), (2, 3, 34, 35), (2, 32, 32, 3)]


def test_companions_go_with_their_inputs(model) -> None:
    class Scaled(torch.nn.Module):
        def forward(self, pictures, factor=None):
            return pictures.mean((2, 3)) * (1 if factor is None else factor[:, None])

    scaled = replace(
        wrap_module(Scaled(), name="scaled", transform=model.transform),
        companions={"factor": Companion(shape=(), dtype="float32")},
    )
    method = Squares()
    explainer = Explainer({"scaled": scaled}, {method.name: OfferedMethod(method, "test", "test 1")})
    plan = explainer.plan("scaled", method.name, {}, outputs=(MapOutput(),))
    decoded = [explainer.decode(plan, INPUTS[place], {"factor": np.float32(place + 1)}) for place in (0, 1, 3)]
    made = []
    for ahead in (None, Sender(Passage()).send(scaled, decoded)):
        cancels = [CancelToken() for _ in decoded]
        cancels[1].cancel()
        everything = explainer.explain(plan, decoded, [()] * 3, [(0,)] * 3, cancels, ahead=ahead)
        made.append([outcome(one) for one in everything])
    assert made[0] == made[1]
    assert made[1][1] is Cancelled


def test_inputs_are_given_once(model, explainer_of) -> None:
    explainer = explainer_of(Squares())
    plan = explainer.plan(model.name, "squares", {}, outputs=(MapOutput(),))
    decoded = [explainer.decode(plan, data) for data in INPUTS]
    ahead = Sender(Passage()).send(model, decoded)
    assert ahead.take([0, 2]) is None, "these have two shapes"
    assert ahead.take([2]) is not None
    assert ahead.take([5]) is None, "it was of that shape"
    assert ahead.take([4, 0]) is not None


@pytest.mark.cuda
def test_on_a_gpu_what_is_sent_while_it_computes_arrives_whole() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    device = torch.device("cuda")
    passage = CudaPassage(device)
    arrays = [CHANCE.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(32)]
    expected = torch.from_numpy(np.stack(arrays))
    for _ in range(20):
        torch.cuda._sleep(10_000_000)  # the computing stream is busy, as with the batch before
        with passage.sending():
            sent_tensor = gathered(arrays, device)
        sent = passage.sent()
        passage.receive(sent, [sent_tensor])
        seen = sent_tensor.to(torch.float32)
        del sent_tensor  # its memory must not be the next one's while the computing stream still reads it
        with passage.sending():
            gathered([255 - one for one in arrays], device)
        assert torch.equal(seen.cpu(), expected.float())
