"""Devices that the operators are tested on: the CPU always, a GPU where there is one."""

import pytest
import torch

from whylight import ops


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        usable = torch.cuda.is_available() and ops.native_status().cuda
        no_gpu = pytest.mark.skipif(not usable, reason="there is no CUDA device, or the extension has no CUDA kernels")
        metafunc.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, no_gpu])])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
