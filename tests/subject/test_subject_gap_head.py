"""The closed form is taken where it is exact, and only there."""

from __future__ import annotations

import pytest
import subject_nets as nets
import torch
from torch import nn

from whylight.method import Need
from whylight.models import wrap_module
from whylight.target import ClassIndex, Neuron, Objective, Rank


def test_the_closed_form_is_the_gradient(batch, noise):
    module = nets.seeded(nets.Pooled)
    model = wrap_module(module, input_size=(16, 20))
    assert Need.GAP_HEAD in model.capabilities
    inputs = noise(3, 16, 20)
    work = batch(inputs, [ClassIndex(4), Rank(0), ClassIndex(1)])
    activations, gradients = model.subject().layer_gradients(work, "last-spatial")
    assert gradients.shape == activations.shape == (3, 8, 8, 10)
    assert gradients.stride()[2:] == (0, 0)
    _, by_autograd = model.subject()._gradients(work, model.last_spatial)
    torch.testing.assert_close(gradients, by_autograd, rtol=1e-12, atol=0)
    weight = module.classifier.weight[4] / 80
    torch.testing.assert_close(gradients[0], weight[:, None, None].expand(8, 8, 10))


def test_functions_of_the_scores_take_the_closed_form_too(batch, noise):
    model = wrap_module(nets.seeded(nets.Pooled), input_size=(16, 20))
    objectives = [Objective(lambda scores, k=k: scores.softmax(0)[k] - scores[0], "bent") for k in (1, 2, 3)]
    work = batch(noise(3, 16, 20), objectives)
    subject = model.subject()
    _, gradients = subject.layer_gradients(work, "last-spatial")
    _, by_autograd = model.subject()._gradients(work, model.last_spatial)
    assert gradients.stride()[2:] == (0, 0)
    torch.testing.assert_close(gradients, by_autograd, rtol=1e-10, atol=1e-14)
    for row in range(3):
        alone = batch(work.inputs[row : row + 1], [objectives[row]])
        assert torch.equal(model.subject().layer_gradients(alone, "last-spatial")[1][0], gradients[row])


def test_scores_are_the_weighted_means_of_the_maps(batch, noise):
    model = wrap_module(nets.seeded(nets.Pooled), input_size=(16, 16))
    work = batch(noise(), [ClassIndex(0)] * 3)
    subject = model.subject()
    head = subject.gap_head()
    maps = subject.activations(work, head.layer)[head.layer]
    scores = maps.mean((2, 3)) @ head.weight.T + head.bias
    torch.testing.assert_close(scores, subject.outputs(work), rtol=1e-12, atol=1e-12)


def test_other_layers_and_other_targets_take_the_tail(batch, noise):
    model = wrap_module(nets.seeded(nets.Pooled), input_size=(16, 16))
    assert model.subject().gap_head("one") is None
    assert model.subject().gap_head("last-spatial") is not None
    neuron = batch(noise(1), [Neuron("pool", 2)])
    _, gradients = model.subject().layer_gradients(neuron, "last-spatial")
    expected = torch.zeros(1, 8, 8, 8, dtype=torch.float64)
    expected[:, 2] = 1 / 64
    torch.testing.assert_close(gradients, expected)


def test_a_bend_behind_the_maps_is_noticed(batch, noise):
    """The maps are not negative, so that scores look right; but dead channels have no gradient."""
    module = nets.seeded(nets.ReluAfterPool)
    with torch.no_grad():
        module.two.bias[3] = -100
    model = wrap_module(module, input_size=(16, 16))
    assert Need.GAP_HEAD not in model.capabilities
    _, gradients = model.subject().layer_gradients(batch(noise(1), [ClassIndex(0)]), "last-spatial")
    assert torch.equal(gradients[0, 3], torch.zeros(8, 8, dtype=torch.float64))
    assert gradients[0, 2].abs().max() > 0


def _head(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *layers)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: _head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5, bias=False)), True),
        (lambda: _head(nn.AvgPool2d(14), nn.Flatten(), nn.Linear(4, 5)), True),
        (lambda: _head(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5)), False),
        (lambda: _head(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)), False),
        (lambda: _head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 5)), False),
        (lambda: _head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.Softmax(1)), False),
        (lambda: _head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 5)), False),
    ],
)
def test_heads(build, expected):
    model = wrap_module(nets.seeded(build), input_size=(16, 16))
    assert (Need.GAP_HEAD in model.capabilities) is expected
