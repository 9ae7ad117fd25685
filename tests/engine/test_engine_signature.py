"""Which inputs may share a batch: those that the model can be given as one tensor, companions too."""

from __future__ import annotations

import numpy as np

from whylight.engine.work import signature
from whylight.wire import input_to_proto

PICTURE = np.zeros((4, 4, 3), np.uint8)


def asked(length: int, name: str = "question"):
    return input_to_proto(PICTURE, companions={name: np.zeros(length, np.int64), "mood": np.zeros(2, np.float32)})


def test_pictures_of_any_size_go_together_and_arrays_of_one_shape():
    assert signature(input_to_proto(b"file")) == signature(input_to_proto(PICTURE)) == "image"
    small, large = (np.zeros((3, side, 8), np.float32) for side in (8, 9))
    assert signature(input_to_proto(small)) == signature(input_to_proto(small + 1))
    assert len({signature(input_to_proto(data)) for data in (small, large, PICTURE)}) == 3


def test_companions_go_together_by_name_and_shape():
    assert signature(asked(3)) == signature(asked(3))
    assert len({signature(item) for item in (asked(3), asked(4), asked(3, "prefix"), input_to_proto(PICTURE))}) == 4
