"""Altered copies of inputs and of a layer's output: the values of plain runs, the same bits in any grouping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import whylight
from whylight.errors import Cancelled
from whylight.models import wrap_module
from whylight.subject import CancelToken
from whylight.subject.altered import shares_head
from whylight.testing import conv_gap_net, functional_relu_net, relu_net


def batch_of(inputs, targets, rows, cancel=None):
    return whylight.Batch(inputs, tuple(targets), tuple(rows), cancel or CancelToken(), tuple(range(len(inputs))))


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


TARGETS = (whylight.ClassIndex(1), whylight.Rank(0), whylight.Neuron("features.0", 2))
ROWS = (0, 0, 1)


def shift(inputs, k):
    return inputs + 0.1 * k


def test_scores_are_those_of_the_altered_inputs_at_the_targets_of_the_unaltered(inputs):
    net = relu_net().double()
    subject = wrap_module(net).subject()
    batch = batch_of(inputs, TARGETS, ROWS)
    top = int(net(inputs[:1]).argmax())
    found = list(subject.altered_scores(batch, 5, lambda k: shift(inputs, k)))
    assert len(found) == 5
    for k, values in enumerate(found):
        copy = shift(inputs, k)
        scores = net(copy)
        expected = torch.stack([scores[0, 1], scores[0, top], net.features[0](copy)[1, 2].mean()])
        torch.testing.assert_close(values, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", [None, "features.3"])
def test_gradients_are_those_of_a_batch_of_the_copies(inputs, layer):
    model = wrap_module(relu_net().double())
    targets = (whylight.ClassIndex(1), whylight.ClassIndex(3), whylight.ClassIndex(0))
    batch = batch_of(inputs, targets, ROWS)
    for k, found in enumerate(model.subject().altered_gradients(batch, 4, lambda k: shift(inputs, k), layer=layer)):
        copy = batch_of(shift(inputs, k), targets, ROWS)
        expected = (
            (copy.inputs, model.subject().input_gradients(copy))
            if layer is None
            else model.subject().layer_gradients(copy, layer)
        )
        assert found.index == k
        torch.testing.assert_close(found.activations, expected[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.gradients, expected[1], rtol=1e-12, atol=1e-12)


def test_bits_do_not_depend_on_how_many_copies_share_a_pass(inputs, monkeypatch):
    model = wrap_module(conv_gap_net())
    batch = batch_of(inputs.float(), (whylight.ClassIndex(1), whylight.ClassIndex(2)), (0, 1))
    copies = [shift(batch.inputs, k) for k in range(7)]

    def all_of(rows):
        monkeypatch.setattr("whylight.subject.altered.ROWS_PER_PASS", {"cpu": rows})
        monkeypatch.setattr("whylight.subject.altered.ROWS_WITH_GRADIENTS", {"cpu": rows})
        subject = model.subject()
        scores = torch.stack(list(subject.altered_scores(batch, 7, copies.__getitem__)))
        gradients = torch.stack([a.gradients for a in subject.altered_gradients(batch, 7, copies.__getitem__)])
        return scores, gradients

    whole = all_of(32)
    for rows in (1, 2, 5):
        assert all(torch.equal(a, b) for a, b in zip(all_of(rows), whole, strict=True))


@pytest.mark.parametrize(
    ("network", "layer", "shared"),
    [(relu_net, "features.3", True), (functional_relu_net, "left", False), (functional_relu_net, "last", True)],
)
def test_a_layers_output_is_replaced_whether_or_not_its_head_can_be_shared(inputs, network, layer, shared):
    net = network().double()
    model = wrap_module(net)
    targets = (whylight.ClassIndex(1), whylight.ClassIndex(3), whylight.ClassIndex(0))
    batch = batch_of(inputs, targets, ROWS)

    def without(row, k, activations):
        return activations.index_fill(0, torch.tensor([k]), 0.0)

    found = list(model.subject().altered_layer_scores(batch, layer, 3, without))
    assert [row for row, _ in found] == [0] * 3 + [1] * 3
    for place, (row, values) in enumerate(found):
        k = place % 3
        handle = net.get_submodule(layer).register_forward_hook(
            lambda module, given, output, k=k: output.index_fill(1, torch.tensor([k]), 0.0)
        )
        scores = net(inputs[row : row + 1])[0]
        handle.remove()
        wanted = [1, 3] if row == 0 else [0]
        torch.testing.assert_close(values, scores[wanted].detach(), rtol=1e-12, atol=1e-12)
    assert [shares_head(model.subject(), batch, row, layer) for row in (0, 1)] == [shared] * 2


def halved(row, k, activations):
    return activations / 2


@pytest.mark.parametrize("layer", ["features.3", "left"])
def test_a_target_before_the_altered_layer_is_refused_and_both_are_named(inputs, layer):
    """Whatever is done to the layer, it stays as it is: a map of it would be 0 without a word."""
    model = wrap_module((relu_net if layer == "features.3" else functional_relu_net)().double())
    before = "features.0" if layer == "features.3" else "right"
    assert before in {known.name for known in model.layers}
    batch = batch_of(inputs, [whylight.Neuron(before, 1)] * 2, (0, 1))
    with pytest.raises(whylight.Unsupported, match=f"{before}.*does not depend on layer '{layer}'") as refused:
        next(model.subject().altered_layer_scores(batch, layer, 2, halved))
    assert refused.value.reason == "TARGET_UNSUPPORTED"


class Stepped(nn.Module):
    """Scores that depend on the layer in a way that cannot be differentiated, and a layer on which nothing depends."""

    def __init__(self):
        super().__init__()
        self.layer, self.aside = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, inputs):
        self.aside(inputs)
        return (self.layer(inputs).detach() > 0).double().mean((2, 3))


def test_what_has_no_gradient_can_be_altered_all_the_same(inputs):
    model = wrap_module(Stepped().double())
    batch = batch_of(inputs, [whylight.ClassIndex(1)] * 2, (0, 1))
    found = [values for _, values in model.subject().altered_layer_scores(batch, "layer", 1, lambda row, k, a: a - 1)]
    assert all(values < before for values, before in zip(found, model.subject().scores(batch), strict=True))
    with pytest.raises(whylight.Unsupported, match="the output, which does not depend on layer 'aside'"):
        next(model.subject().altered_layer_scores(batch, "aside", 1, halved))


class Deciding(nn.Module):
    """Goes on from the layer alone for dark inputs, and joins it with the input for bright ones."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, inputs):
        found = self.layer(inputs)
        if inputs.mean() > 0:
            found = torch.cat((found, inputs), 1)[:, :3]
        return found.mean((2, 3))


def test_whether_the_head_can_be_shared_is_found_out_for_each_input():
    net = Deciding().double()
    model = wrap_module(net)
    inputs = torch.rand(2, 3, 24, 32, dtype=torch.float64) * torch.tensor([-1, 1])[:, None, None, None]
    batch = batch_of(inputs, [whylight.ClassIndex(1)] * 2, (0, 1))
    assert [shares_head(model.subject(), batch, row, "layer") for row in (0, 1)] == [True, False]
    values = [float(one) for _, one in model.subject().altered_layer_scores(batch, "layer", 3, lambda r, k, a: a * k)]
    scores = model.subject().scores(batch).tolist()
    assert values == pytest.approx([scores[0] * k for k in range(3)] + [scores[1] * k for k in range(3)])


def test_a_lack_of_memory_is_not_taken_for_a_head_that_cannot_be_shared(inputs, monkeypatch):
    model = wrap_module(relu_net().double())
    batch = batch_of(inputs, [whylight.ClassIndex(1)] * 2, (0, 1))
    subject = model.subject()
    subject.outputs(batch)

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(model, "run", full)
    with pytest.raises(torch.OutOfMemoryError):
        shares_head(subject, batch, 0, "features.3")


def test_an_objective_is_explained_like_any_target(inputs):
    net = relu_net().double()
    model = wrap_module(net)

    def contrast(scores):
        return scores[1] - torch.logsumexp(scores, 0)

    batch = batch_of(inputs, (whylight.Objective(contrast, "contrast"), whylight.ClassIndex(2)), (0, 1))
    subject = model.subject()
    gradients = subject.input_gradients(batch)
    leaf = inputs.clone().requires_grad_(True)
    scores = net(leaf)
    (expected,) = torch.autograd.grad(contrast(scores[0]) + scores[1, 2], leaf)
    torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-12)
    first, _ = subject.resolve(batch)
    assert (first.label, first.score) == ("contrast", pytest.approx(contrast(scores[0]).item(), abs=1e-12))


def test_a_copy_of_another_shape_is_refused(inputs):
    batch = batch_of(inputs, (whylight.ClassIndex(0), whylight.ClassIndex(0)), (0, 1))
    subject = wrap_module(relu_net().double()).subject()
    with pytest.raises(ValueError, match=r"\[2, 3, 24, 32\] is \[2, 3, 24, 31\]"):
        next(subject.altered_scores(batch, 1, lambda k: inputs[..., 1:]))


def test_cancelling_stops_between_passes(inputs, monkeypatch):
    monkeypatch.setattr("whylight.subject.altered.ROWS_PER_PASS", {"cpu": 2})
    cancel = CancelToken()
    batch = batch_of(inputs, (whylight.ClassIndex(0), whylight.ClassIndex(0)), (0, 1), cancel)
    scores = wrap_module(relu_net().double()).subject().altered_scores(batch, 3, lambda k: inputs)
    next(scores)
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(scores)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return torch.relu(inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class PassingDouble(whylight.BackwardRule):
    """Every ReLU doubles what comes back, whatever its sign; remembers where it was."""

    def __init__(self):
        self.layers = []

    def call(self, call):
        if not call.is_relu:
            return call.proceed()
        self.layers.append((call.layer, call.in_place))
        return Doubled.apply(call.args[0])


def test_a_rule_takes_every_relu_over_and_leaves_the_model_alone(inputs):
    net = functional_relu_net().double()
    model = wrap_module(net)
    batch = batch_of(inputs, (whylight.ClassIndex(0), whylight.ClassIndex(0)), (0, 1))
    plain = model.subject().input_gradients(batch)
    rule = PassingDouble()
    changed = model.subject().input_gradients(batch, rule=rule)
    assert [layer for layer, _ in rule.layers] == ["", "relu", "", "", "relu"]
    assert not torch.allclose(plain, changed)
    assert torch.equal(model.subject().input_gradients(batch), plain)


def test_a_rule_sees_the_innermost_layer(inputs):
    rule = PassingDouble()
    batch = batch_of(inputs, (whylight.ClassIndex(0), whylight.ClassIndex(0)), (0, 1))
    wrap_module(relu_net().double()).subject().input_gradients(batch, rule=rule)
    assert [layer for layer, _ in rule.layers] == ["features.1", "features.4", "classifier.1"]


def test_models_say_whether_they_have_relu():
    assert whylight.Need.RELU in wrap_module(functional_relu_net()).capabilities
    assert whylight.Need.RELU not in wrap_module(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())).capabilities


def test_what_was_computed_is_taken_over_and_said(inputs, monkeypatch):
    model = wrap_module(relu_net().double())
    batch = batch_of(inputs, (whylight.ClassIndex(1), whylight.Rank(1)), (0, 1))
    passes = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda *args, **kwargs: passes.append(kwargs) or run(*args, **kwargs))
    subject = model.subject()
    first = subject.layer_gradients(batch, "features.3")
    assert subject.taken_over() == ()
    subject.begin()
    second = subject.layer_gradients(batch, "features.3")
    subject.resolve(batch)
    assert subject.taken_over() == ("gradients at features.3", "output")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len(passes) == 1
    subject.begin()
    subject.input_gradients(batch)
    assert subject.taken_over() == ()


@pytest.mark.parametrize("count", [1, 5, 70])
def test_blocks_have_the_scores_that_copies_one_by_one_have(inputs, count):
    model = wrap_module(relu_net())
    batch = batch_of(inputs.float(), TARGETS, ROWS)

    def altered(block):
        return torch.stack([shift(batch.inputs, k) for k in block])

    blocks = list(model.subject().altered_score_blocks(batch, count, altered))
    assert [k for block, _ in blocks for k in block] == list(range(count))
    single = torch.stack(list(model.subject().altered_scores(batch, count, lambda k: shift(batch.inputs, k))))
    assert torch.equal(torch.cat([values for _, values in blocks]), single)


def test_a_block_of_another_shape_is_refused(inputs):
    batch = batch_of(inputs, (whylight.ClassIndex(1),) * 2, (0, 1))
    with pytest.raises(ValueError, match="2 altered copies"):
        list(wrap_module(relu_net().double()).subject().altered_score_blocks(batch, 2, lambda block: inputs))


def test_a_neuron_of_the_altered_layer_sees_what_is_there_now(inputs):
    model = wrap_module(conv_gap_net().double(), input_size=(24, 32))
    layer = model.layer("last-spatial").name
    work = batch_of(inputs, [whylight.Neuron(layer, 1), whylight.Neuron(layer, 2)], (0, 1))
    altered = list(model.subject().altered_layer_scores(work, layer, 2, lambda row, k, maps: maps * (k + 3)))
    assert [row for row, _ in altered] == [0, 0, 1, 1]
    found = torch.cat([values for _, values in altered]).view(2, 2)
    scores = model.subject().scores(work)
    torch.testing.assert_close(found, scores[:, None] * torch.tensor([3.0, 4.0], dtype=torch.float64))
