"""Methods that take long say how far they are: in order, to the end, with maps that become the result, for nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from whylight.models import wrap_module
from whylight.options import parse_options
from whylight.testing import relu_net
from whylight.testing.running import batch_of
from whylight_gradients import IntegratedGradients, SmoothGrad, VarGrad
from whylight_perturbation import LIME, RISE, KernelSHAP, Occlusion

SUPERPIXELS = {"samples": 40}


@pytest.fixture(scope="module")
def model():
    return wrap_module(relu_net(), input_size=(32, 48))


@pytest.mark.parametrize(
    ("method", "options", "running"),
    [
        (RISE, {"masks": 60}, True),
        (Occlusion, {"window": 8, "stride": 8}, False),
        (LIME, SUPERPIXELS, False),
        (KernelSHAP, SUPERPIXELS, False),
        (IntegratedGradients, {"steps": 5}, True),
        (SmoothGrad, {"samples": 4}, True),
        (VarGrad, {"samples": 4, "base": "integrated-gradients", "steps": 3}, True),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_long_method_says_how_far_it_is(model, method, options, running):
    inputs = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    batch = batch_of(inputs, [[1, 3], None])
    settings = parse_options(method.Options, options)
    said: list[tuple[int, int]] = []
    maps: list[torch.Tensor] = []

    def listen(done: int, total: int, so_far: torch.Tensor | None) -> None:
        said.append((done, total))
        if so_far is not None:
            maps.append(so_far.clone())

    listening = dataclasses.replace(batch, progress=listen)
    given = method().attribute(model.subject(), listening, settings)
    silent = method().attribute(model.subject(), batch, settings)
    final, alone = (one if isinstance(one, torch.Tensor) else one.maps for one in (given, silent))
    assert torch.equal(final, alone)
    assert said == sorted(set(said)), "forward only, and nothing twice"
    assert {total for _, total in said} == {said[-1][0]}, "the last report is of the end"
    assert len(maps) == (len(said) if running else 0)
    if running:
        assert all(one.shape == final.shape for one in maps)
        assert torch.equal(maps[-1], final)
