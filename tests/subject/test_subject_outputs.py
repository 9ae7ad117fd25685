"""Tuples, dicts, dataclasses, dense outputs and latents: the selected tensor is what is explained."""

from __future__ import annotations

import pytest
import subject_nets as nets
import torch
from torch import nn

from whylight.errors import InvalidInput, Unsupported
from whylight.method import Need
from whylight.models import wrap_module
from whylight.target import ClassIndex, Latent, Rank, Region


@pytest.mark.parametrize(
    ("kind", "output", "latent"),
    [
        ("tuple", "0", "1"),
        ("dict", "logits", "hidden"),
        ("nested", "heads.0", "heads.1"),
        ("dataclass", "logits", "hidden"),
    ],
)
def test_selectors(kind, output, latent, batch, noise):
    module = nets.seeded(lambda: nets.Wrapping(kind))
    model = wrap_module(module, input_size=(16, 16), output=output, latent=latent)
    inputs = noise()
    expected = module.net(inputs)
    assert model.class_count == 5
    assert model.latent_shape == (3,)
    torch.testing.assert_close(model.subject().forward(inputs), expected, rtol=1e-12, atol=1e-12)
    _, gradients = model.subject().layer_gradients(batch(inputs, [ClassIndex(2)] * 3), "last-spatial")
    plain = wrap_module(module.net, input_size=(16, 16))
    _, other = plain.subject().layer_gradients(batch(inputs, [ClassIndex(2)] * 3), "last-spatial")
    torch.testing.assert_close(gradients, other, rtol=1e-12, atol=1e-12)
    work = batch(inputs, [Latent(1)] * 3)
    at_input = model.subject().input_gradients(work)
    assert torch.allclose(at_input[:, 1], torch.full_like(at_input[:, 1], 2 / 256))
    assert not at_input[:, 0].any()
    assert model.subject().resolve(work)[0].score == pytest.approx(float(inputs[0, 1].mean() * 2))


def test_an_ambiguous_or_missing_output_is_explained():
    module = nets.seeded(lambda: nets.Wrapping("dict"))
    with pytest.raises(InvalidInput, match="logits, hidden"):
        wrap_module(module, input_size=(16, 16))
    with pytest.raises(InvalidInput, match="no part 'logit'"):
        wrap_module(module, input_size=(16, 16), output="logit")


def test_regions_of_a_dense_output(batch, noise):
    module = nets.seeded(nets.Dense)
    model = wrap_module(module, input_size=(16, 16))
    assert model.class_count == 0
    inputs = noise(2)
    work = batch(inputs, [Region(1, 0, 0, 0.5, 1), Region(2)])
    subject = model.subject()
    gradients = subject.input_gradients(work)
    leaf = inputs.clone().requires_grad_(True)
    scores = module(leaf)
    (expected,) = torch.autograd.grad(scores[0, 1, :, :8].sum() + scores[1, 2].sum(), leaf)
    torch.testing.assert_close(gradients, expected)
    assert subject.resolve(work)[0].score == pytest.approx(scores[0, 1, :, :8].sum().item())
    with pytest.raises(Unsupported, match="region"):
        model.check_target(ClassIndex(0))
    with pytest.raises(Unsupported):
        model.check_target(Rank(0))


def test_a_target_that_the_output_lacks():
    model = wrap_module(nets.seeded(nets.Pooled), input_size=(16, 16))
    for target in (Region(0), Latent(0)):
        with pytest.raises(Unsupported) as caught:
            model.check_target(target)
        assert caught.value.reason == "TARGET_UNSUPPORTED"


def test_a_network_without_gradients_says_so():
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.one(x).mean((2, 3)).argmax(1, keepdim=True)

    model = wrap_module(nets.seeded(Decides), input_size=(16, 16))
    assert model.capabilities == {Need.SPATIAL_LAYER}
