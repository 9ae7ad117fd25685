"""An image gets the same bits alone and in any batch: outputs, activations, gradients; with one thread and with two."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from whylight.models import wrap_module
from whylight.models.weights import random_weights
from whylight.subject.invariance import CACHED_BYTES, make_batch_invariant
from whylight.target import ClassIndex


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _lite0():
    timm = pytest.importorskip("timm")
    return timm.create_model("tf_efficientnet_lite0")


NETWORKS = {
    "resnet18": (torchvision.models.resnet18, "layer3", 128),
    "resnet50": (torchvision.models.resnet50, "layer4.1", 96),
    "vgg16": (torchvision.models.vgg16, "features.26", 64),
    "tf_efficientnet_lite0": (_lite0, "blocks.4", 224),
}


@pytest.mark.parametrize(
    ("name", "channels_last"),
    [(name, False) for name in NETWORKS] + [("resnet18", True), ("tf_efficientnet_lite0", True)],
)
def test_alone_or_in_a_batch(name, channels_last, threads, batch, noise):
    build, layer, size = NETWORKS[name]
    module = build()
    random_weights(module, 0)
    model = wrap_module(module, input_size=(size, size), channels_last=channels_last)
    assert model.channels_last is channels_last
    inputs = noise(8, size, size, torch.float32)
    targets = [ClassIndex(7 + 100 * row) for row in range(8)]

    def answers(rows):
        work = batch(inputs[rows].contiguous(), targets[rows])
        subject = model.subject()
        at_layer = subject.layer_gradients(work, layer)
        return (*at_layer, *subject.layer_gradients(work, "last-spatial"), subject.outputs(work))

    together = {count: answers(slice(0, count)) for count in (2, 3, 8)}
    for row in (1, 7) if threads == 2 else (0, 1, 2, 7):
        alone = answers(slice(row, row + 1))
        for count, found in together.items():
            if row < count:
                for one, other in zip(alone, found, strict=True):
                    assert torch.equal(one[0], other[row]), (row, count)
    assert together[8][1].abs().max() > 0


def test_gradients_at_the_input(threads, batch, noise):
    module = torchvision.models.mobilenet_v2()
    random_weights(module, 0)
    model = wrap_module(module, input_size=(128, 128))
    inputs = noise(3, 128, 128, torch.float32)
    together = model.subject().input_gradients(batch(inputs, [ClassIndex(5), ClassIndex(6), ClassIndex(7)]))
    for row in range(3):
        alone = model.subject().input_gradients(batch(inputs[row : row + 1], [ClassIndex(5 + row)]))
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("outputs", [16, 4096])
@pytest.mark.parametrize("rows", [1, 2, 8, 9, 19])
def test_linear_layers_small_and_large(outputs, rows):
    torch.manual_seed(0)
    plain = nn.Linear(1040, outputs)
    assert (plain.weight.nbytes > CACHED_BYTES) is (outputs == 4096)
    layer = nn.Linear(1040, outputs)
    layer.load_state_dict(plain.state_dict())
    make_batch_invariant(layer.requires_grad_(False))
    inputs = torch.randn(rows, 1040, requires_grad=True)
    found = layer(inputs)
    torch.testing.assert_close(found, plain(inputs))
    (gradients,) = torch.autograd.grad(found, inputs, torch.ones_like(found))
    alone = inputs.detach()[rows - 1 :].requires_grad_(True)
    assert torch.equal(layer(alone)[0], found[rows - 1])
    assert torch.equal(torch.autograd.grad(layer(alone), alone, torch.ones(1, outputs))[0][0], gradients[rows - 1])


def test_networks_that_call_functions_instead_of_layers(threads):
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(480, 80, 1, 1))
            self.first = nn.Conv2d(3, 80, 7, stride=16, padding=3)
            self.weight = nn.Parameter(torch.randn(1000, 480))

        def forward(self, x):
            return F.linear(F.conv2d(F.relu(self.first(x)), self.kernel).mean((2, 3)), self.weight)

    torch.manual_seed(0)
    model = wrap_module(Functional())
    assert model.functional
    assert model.batch_invariant
    layers_only = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    assert not wrap_module(layers_only, input_size=(16, 16)).functional


def test_a_network_that_mixes_its_batch_is_found_out():
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return (self.one(x) - x.mean()).mean((2, 3))

    assert not wrap_module(Mixing(), input_size=(16, 16)).batch_invariant


class CountingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * len(gradient)


def test_a_model_whose_gradients_at_the_input_depend_on_the_batch_is_told_apart():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.last = nn.Conv2d(4, 4, 3)

        def forward(self, inputs):
            return self.last(CountingBackward.apply(self.stem(inputs))).mean((2, 3))

    assert not wrap_module(Counting(), input_size=(16, 16)).batch_invariant


@pytest.mark.parametrize("shape", [(1, 8, 4, 6), (1, 8, 4, 1), (3, 8, 1, 6)])
@pytest.mark.parametrize("activation", [False, True])
def test_batch_normalisation_has_its_gradient_however_tensors_lie(shape, activation):
    """torch reads some strides in two ways, and gives gradients of other elements then."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    if activation:
        norm = pytest.importorskip("timm").layers.BatchNormAct2d(8, act_layer=nn.Identity)
    norm.running_var.uniform_(0.5, 1.5)
    norm = norm.double().eval().requires_grad_(False)
    make_batch_invariant(norm)
    values, gradient = torch.randn(2, *shape, dtype=torch.float64)
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1)

    def laid(tensor, *order):
        return tensor.permute(order).contiguous().permute([order.index(axis) for axis in range(4)])

    orders = [(0, 1, 2, 3), (0, 2, 3, 1), (2, 3, 0, 1), (2, 0, 3, 1), (0, 3, 2, 1)]
    for one in orders:
        for other in orders:
            leaf = laid(values, *one).requires_grad_()
            (found,) = torch.autograd.grad(norm(leaf), leaf, laid(gradient, *other))
            torch.testing.assert_close(found, gradient * scale, rtol=0, atol=1e-12)


def test_one_image_has_its_gradient_where_tokens_follow_a_batch_normalisation(batch, noise):
    class Hybrid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            tokens = self.norm(self.stem(x)).flatten(2).transpose(1, 2)
            return (tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]).mean(1)

    torch.manual_seed(0)
    network = Hybrid().double()
    network.norm.running_var.uniform_(0.5, 1.5)
    model = wrap_module(network, input_size=(16, 24))
    inputs = noise(2, 16, 24)
    together = model.subject().input_gradients(batch(inputs, [ClassIndex(1), ClassIndex(2)]))
    alone = model.subject().input_gradients(batch(inputs[1:], [ClassIndex(2)]))
    torch.testing.assert_close(alone, together[1:], rtol=0, atol=1e-12)
