"""Progress and the wish for it: what is written is read, and what a stranger writes is checked."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from whylight import wire
from whylight.errors import InternalError, InvalidInput
from whylight.progress import Progress
from whylight.v1 import explanation_pb2 as pb


def test_progress_is_read_as_it_was_written():
    maps = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 3), np.float32)]
    message = pb.ExplainProgress(
        input_index=3,
        method="rise",
        method_index=1,
        done=7,
        total=2**40,
        maps=[wire.array_to_tensor(one) for one in maps],
    )
    read = wire.progress_from_proto(pb.ExplainProgress.FromString(message.SerializeToString()))
    assert read.maps[0].dtype == np.float32
    assert all(np.array_equal(one, other) for one, other in zip(read.maps, maps, strict=True))
    assert (read.input_index, read.method, read.method_index, read.done, read.total) == (3, "rise", 1, 7, 2**40)
    assert wire.progress_from_proto(pb.ExplainProgress(method="m", total=1)) == Progress(0, "m", 0, 0, 1)


def test_a_damaged_map_is_the_answering_sides_fault():
    message = pb.ExplainProgress(maps=[pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[2, 2], data=b"1234")])
    with pytest.raises(InternalError) as caught:
        wire.progress_from_proto(message)
    assert caught.value.reason == "RESPONSE_INVALID"


@pytest.mark.parametrize(("given", "meant"), [(None, 0.25), (0.0, 0.0), (1.5, 1.5)])
def test_an_interval_is_what_was_said_or_a_quarter_of_a_second(given, meant):
    spec = wire.progress_spec_to_proto(given, running_maps=True)
    assert spec.running_maps
    assert spec.HasField("min_interval") == (given is not None)
    assert wire.min_interval_from_proto(spec) == meant


@pytest.mark.parametrize("given", [-0.5, float("inf"), float("nan"), 1e12])
def test_what_is_no_interval_is_refused_before_it_is_sent(given):
    with pytest.raises(InvalidInput) as caught:
        wire.progress_spec_to_proto(given, running_maps=False)
    assert caught.value.violations[0].field == "progress.min_interval"


def test_an_interval_below_0_is_refused():
    with pytest.raises(InvalidInput) as caught:
        wire.min_interval_from_proto(pb.ProgressSpec(min_interval=Duration(nanos=-1)), "a.progress")
    assert caught.value.violations[0].field == "a.progress.min_interval"
