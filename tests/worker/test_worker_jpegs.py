"""A worker that decodes the JPEG files of a batch together: what it answers, of what it cannot read too."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from worker_serving import RESNET

from whylight.errors import InvalidInput
from whylight.explainer.jpegs import JpegDecoder
from whylight.limits import Limits
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.config import PluginChoice, WorkerConfig
from whylight.worker.service import ExplainerService
from whylight.worker.v1 import worker_pb2

pytest.importorskip("torchvision")
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")


def encoded(format: str) -> bytes:
    y, x = np.mgrid[:70, :90]
    buffer = io.BytesIO()
    Image.fromarray(np.stack((x, y, x + y), axis=2).astype(np.uint8)).save(buffer, format)
    return buffer.getvalue()


def test_the_files_of_a_batch_are_read_together_and_the_others_as_ever() -> None:
    service = ExplainerService.open(
        WorkerConfig(models=(RESNET,), plugins=PluginChoice(only=("cam", "torchvision")), device="cpu")
    )
    plan = service.plan(
        worker_pb2.PlanSpec(
            model="resnet",
            generation=1,
            methods=[v1.MethodCall(name="grad-cam")],
            outputs=[v1.OutputSpec(name="map", map=v1.MapOutput())],
        )
    )
    jpeg = encoded("JPEG")
    files = [jpeg, encoded("PNG"), jpeg[:300], jpeg, b"no picture"]
    items = [worker_pb2.Item(item_id=n, input=v1.Input(image=data)) for n, data in enumerate(files)]
    assert service.decode_together(plan, items) == {}, "it was not told to"
    alone = [service.decode(plan, items[n]) for n in (0, 1)]

    service._jpegs = JpegDecoder(torch.device("cpu"), Limits())
    together = service.decode_together(plan, items)
    assert sorted(together) == [0, 3]
    assert service.device_use() is None, "that is told of GPUs only"
    assert not service.ready.HasField("device_use")
    first, third = (service.decode(plan, items[n], together[n]) for n in (0, 3))
    assert np.abs(first.input.values.astype(int) - alone[0].input.values.astype(int)).max() <= 2
    assert first.input.values.tobytes() == third.input.values.tobytes()
    assert first.input.decode_time > together[0].seconds
    assert (first.id, first.input.box, first.input.original_size) == (0, alone[0].input.box, (90, 70))
    assert service.decode(plan, items[1]).input.values.tobytes() == alone[1].input.values.tobytes()
    for n in (2, 4):
        with pytest.raises(InvalidInput) as caught:
            service.decode(plan, items[n])
        assert caught.value.reason == "IMAGE_UNREADABLE"
