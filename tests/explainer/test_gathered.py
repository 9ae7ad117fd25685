"""Inputs on their way to the device: nothing is changed, wherever it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from whylight.explainer.attribution import gathered


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
