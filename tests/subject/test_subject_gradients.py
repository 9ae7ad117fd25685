"""Gradients at layers and inputs are those of the whole graph, exactly, however the network works inside."""

from __future__ import annotations

import pytest
import subject_nets as nets
import torch

from whylight.errors import Cancelled, InvalidInput, NotFound, Unsupported
from whylight.models import wrap_module
from whylight.subject import CancelToken
from whylight.target import ClassIndex, ClassLabel, Neuron, OutputIndex, Rank


def whole_graph(module, layer, inputs, row, pick):
    """Activations and gradient of one input by autograd alone, on the caller's own module."""
    box = []

    def keep(_module, _inputs, output):
        box.append(output)
        return output.clone()

    handle = module.get_submodule(layer).register_forward_hook(keep)
    try:
        leaf = inputs[row : row + 1].clone().requires_grad_(True)
        score = pick(module(leaf)[0])
    finally:
        handle.remove()
    at_layer, at_input = torch.autograd.grad(score, (box[-1], leaf))
    return box[-1].detach()[0], at_layer[0], at_input[0]


@pytest.mark.parametrize("layer", ["one", "two", "three"])
def test_in_place_operations_behind_the_layer_change_nothing(layer, batch, noise):
    module = nets.seeded(nets.InPlace)
    model = wrap_module(module, input_size=(16, 16))
    inputs = noise()
    work = batch(inputs, [ClassIndex(k) for k in (0, 4, 2)])
    activations, gradients = model.subject().layer_gradients(work, layer)
    at_input = model.subject().input_gradients(work)
    for row, index in enumerate((0, 4, 2)):
        expected = whole_graph(module, layer, inputs, row, lambda scores, index=index: scores[index])
        torch.testing.assert_close(activations[row], expected[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients[row], expected[1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(at_input[row], expected[2], rtol=1e-12, atol=1e-12)
    assert gradients.abs().max() > 0


def test_a_module_that_runs_twice_is_captured_at_its_last_time(batch, noise):
    module = nets.seeded(nets.Pooled)
    module.act.inplace = False
    inputs = noise()
    model = wrap_module(module, input_size=(16, 16))
    activations, gradients = model.subject().layer_gradients(batch(inputs, [ClassIndex(1)] * 3), "act")
    assert activations.shape == (3, 8, 8, 8)
    expected = whole_graph(module, "act", inputs, 0, lambda scores: scores[1])
    torch.testing.assert_close(activations[0], expected[0])
    torch.testing.assert_close(gradients[0], expected[1])


def test_many_targets_of_one_input_share_a_forward(batch, noise):
    model = wrap_module(nets.seeded(nets.InPlace), input_size=(16, 16))
    inputs = noise()
    calls = []
    model.module.one.register_forward_hook(lambda *_: calls.append(1))
    targets = [ClassIndex(3), ClassIndex(0), Rank(1), OutputIndex((4,)), ClassIndex(2)]
    rows = [0, 0, 0, 1, 2]
    subject = model.subject()
    work = batch(inputs, targets, rows)
    activations, gradients = subject.layer_gradients(work, "three")
    resolved = subject.resolve(work)
    outputs = subject.outputs(work)
    assert len(calls) == 1
    assert activations.shape[0] == 3
    assert gradients.shape[0] == 5
    for m, (target, row) in enumerate(zip(targets, rows, strict=True)):
        alone = model.subject().layer_gradients(batch(inputs[row : row + 1], [target]), "three")[1]
        assert torch.equal(gradients[m], alone[0])
        assert resolved[m].score == outputs[row][resolved[m].target.indices[0] if m == 3 else resolved[m].target.index]


def test_rank_is_resolved_for_each_input(batch, noise):
    model = wrap_module(nets.seeded(nets.InPlace), labels=tuple("abcde"), input_size=(16, 16))
    inputs = noise()
    work = batch(inputs, [Rank(0), Rank(4), ClassLabel("C")])
    subject = model.subject()
    resolved = subject.resolve(work)
    order = subject.outputs(work).argsort(descending=True)
    assert resolved[0].target == ClassIndex(int(order[0, 0]))
    assert resolved[1].target == ClassIndex(int(order[1, 4]))
    assert resolved[2].target == ClassIndex(2)
    assert resolved[2].label == "c"
    by_rank = model.subject().layer_gradients(work, "three")[1]
    by_index = model.subject().layer_gradients(batch(inputs, [r.target for r in resolved]), "three")[1]
    assert torch.equal(by_rank, by_index)


def test_neurons_of_later_layers_are_targets(batch, noise):
    module = nets.seeded(nets.InPlace)
    inputs = noise()
    model = wrap_module(module, input_size=(16, 16))
    work = batch(inputs, [Neuron("hidden", 3), Neuron("three", 1), Neuron("three", 2, (5, 6))])
    subject = model.subject()
    _, gradients = subject.layer_gradients(work, "two")
    box = {}
    handles = [
        module.get_submodule(name).register_forward_hook(
            lambda _m, _i, o, name=name: box.__setitem__(name, o) or o.clone()
        )
        for name in ("two", "three", "hidden")
    ]
    leaf = inputs.clone().requires_grad_(True)
    module(leaf)
    for handle in handles:
        handle.remove()
    scores = [box["hidden"][0, 3], box["three"][1, 1].mean(), box["three"][2, 2, 5, 6]]
    for m, score in enumerate(scores):
        (expected,) = torch.autograd.grad(score, box["two"], retain_graph=True)
        torch.testing.assert_close(gradients[m], expected[m], rtol=1e-12, atol=1e-12)
    assert [r.score for r in subject.resolve(work)] == pytest.approx([score.item() for score in scores])


def test_a_target_that_does_not_depend_on_the_layer_is_refused(batch, noise):
    model = wrap_module(nets.seeded(nets.InPlace), input_size=(16, 16))
    with pytest.raises(Unsupported, match="does not depend") as caught:
        model.subject().layer_gradients(batch(noise(1), [Neuron("one", 0)]), "three")
    assert caught.value.reason == "TARGET_UNSUPPORTED"


@pytest.mark.parametrize(
    ("target", "error", "reason"),
    [
        (ClassIndex(5), InvalidInput, "TARGET_INVALID"),
        (ClassIndex(-1), InvalidInput, "TARGET_INVALID"),
        (Rank(5), InvalidInput, "TARGET_INVALID"),
        (OutputIndex((1, 1)), InvalidInput, "TARGET_INVALID"),
        (ClassLabel("tabby"), NotFound, "LABEL_NOT_FOUND"),
        (Neuron("hiden", 0), NotFound, "LAYER_NOT_FOUND"),
        (Neuron("hidden", 12), InvalidInput, "TARGET_INVALID"),
        (Neuron("three", 0, (16, 0)), InvalidInput, "TARGET_INVALID"),
    ],
)
def test_bad_targets_are_named(target, error, reason, batch, noise):
    model = wrap_module(nets.seeded(nets.InPlace), input_size=(16, 16))
    for ask in (lambda: model.check_target(target), lambda: model.subject().resolve(batch(noise(1), [target]))):
        with pytest.raises(error) as caught:
            ask()
        assert caught.value.reason == reason


def test_layers_are_found_or_close_ones_named():
    model = wrap_module(nets.seeded(nets.InPlace), input_size=(16, 16))
    assert model.subject().resolve_layer("last-spatial") == "three"
    with pytest.raises(NotFound, match="'three'") as caught:
        model.subject().resolve_layer("tree")
    assert caught.value.reason == "LAYER_NOT_FOUND"
    assert caught.value.violations[0].field == "options.layer"


def test_inputs_that_are_not_square(batch, noise):
    module = nets.seeded(nets.InPlace)
    model = wrap_module(module, input_size=(16, 24))
    inputs = noise(2, 16, 24)
    assert model.layer("three").output_shape == (4, 16, 24)
    activations, gradients = model.subject().layer_gradients(batch(inputs, [ClassIndex(0)] * 2), "last-spatial")
    expected = whole_graph(module, "three", inputs, 1, lambda scores: scores[0])
    torch.testing.assert_close(activations[1], expected[0])
    torch.testing.assert_close(gradients[1], expected[1])


def test_chunks_change_nothing_and_stay_under_the_budget(batch, noise):
    module = nets.seeded(nets.InPlace)
    wide = wrap_module(module, input_size=(16, 16))
    tight = wrap_module(module, input_size=(16, 16), memory_budget_bytes=1)
    assert tight.max_rows() == 1
    assert wide.max_rows() > 7
    inputs = noise(7)
    targets = [ClassIndex(k % 5) for k in range(8)]
    rows = [0, 1, 1, 2, 3, 4, 5, 6]
    for ask in (
        lambda s, b: s.layer_gradients(b, "two"),
        lambda s, b: (s.input_gradients(b), s.outputs(b)),
        lambda s, b: (s.activations(b, "two")["two"], s.forward(b.inputs)),
    ):
        for one, other in zip(
            ask(wide.subject(), batch(inputs, targets, rows)),
            ask(tight.subject(), batch(inputs, targets, rows)),
            strict=True,
        ):
            assert torch.equal(one, other)


def test_the_estimate_of_memory_holds_what_the_graph_keeps():
    model = wrap_module(nets.seeded(nets.InPlace), input_size=(16, 16))
    convolution = 4 * 16 * 16 * 8
    assert model.findings.bytes_per_row("") >= 3 * convolution
    assert (
        model.findings.bytes_per_row(None) < model.findings.bytes_per_row("two") < model.findings.bytes_per_row("one")
    )


def test_cancelled_work_stops_between_chunks(batch, noise):
    model = wrap_module(nets.seeded(nets.InPlace), input_size=(16, 16), memory_budget_bytes=1)
    cancel = CancelToken()
    runs = []

    def count(*_):
        runs.append(1)
        if len(runs) == 2:
            cancel.cancel()

    model.module.one.register_forward_hook(count)
    with pytest.raises(Cancelled):
        model.subject().layer_gradients(batch(noise(6), [ClassIndex(0)] * 6, cancel=cancel), "two")
    assert len(runs) == 2
    with pytest.raises(Cancelled):
        model.subject(cancel).forward(noise(1))


def test_a_token_of_many_is_cancelled_when_all_are():
    parts = [CancelToken(), CancelToken()]
    whole = CancelToken(parts)
    parts[0].cancel()
    whole.check()
    parts[1].cancel()
    with pytest.raises(Cancelled):
        whole.check()
