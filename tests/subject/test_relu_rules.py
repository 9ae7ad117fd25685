"""The ways back through ReLU, against their formulas, however ReLU is called; what goes forward is what it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whylight
from whylight.models import wrap_module
from whylight.testing import functional_relu_net
from whylight.testing.running import batch_of

WAYS = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "nn.ReLU": nn.ReLU(),
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu in place by position": lambda x: F.relu(x, True),
    "F.relu_": F.relu_,
    "torch.relu_": torch.relu_,
    "Tensor.relu_": lambda x: x.relu_(),
}
CLIPPED = {
    "F.relu6": F.relu6,
    "F.relu6 in place": lambda x: F.relu6(x, inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh by name": lambda x: F.hardtanh(x, max_val=6.0, min_val=0.0),
    "F.hardtanh in place": lambda x: F.hardtanh(x, 0.0, 6.0, True),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
}
RULES = [whylight.GuidedRelu(), whylight.DeconvnetRelu()]


class Around(nn.Module):
    """A convolution, one activation, and scores; the activation's argument is used again, as it then is."""

    def __init__(self, activation):
        super().__init__()
        self.before = nn.Conv2d(3, 6, 3, padding=1)
        self.after = nn.Linear(6, 4)
        self.activation = activation

    def forward(self, inputs):
        hidden = 5 * self.before(inputs)
        active = self.activation(hidden)
        return self.after((active + 0.1 * hidden.tanh() * (1 if self.reuse else 0)).mean((2, 3)))

    reuse = True


def net_of(activation):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Around(activation).double().eval()


@pytest.fixture
def inputs():
    return torch.randn(3, 3, 10, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(net, inputs, target, rule, ceiling):
    """Return the modified gradient where the activation's argument goes nowhere else."""
    leaf = inputs.clone().requires_grad_()
    hidden = 5 * net.before(leaf)
    shown = hidden.detach().clamp(0, ceiling)
    active = shown.clone().requires_grad_()
    (back,) = torch.autograd.grad(net.after(active.mean((2, 3)))[:, target].sum(), active)
    kept = back * (back > 0)
    if isinstance(rule, whylight.GuidedRelu):
        kept = kept * (shown > 0) * (shown < ceiling)
    return torch.autograd.grad(hidden, leaf, kept)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", [*WAYS, *CLIPPED])
def test_the_formula_however_it_is_called(way, rule, inputs):
    ceiling = 6.0 if way in CLIPPED else float("inf")
    net = net_of({**WAYS, **CLIPPED}[way])
    net.reuse = False
    hidden = 5 * net.before(inputs)
    assert (hidden > 6).any()
    assert (hidden < 0).any()
    found = wrap_module(net).subject().input_gradients(batch_of(inputs, [2] * 3), rule=rule)
    expected = by_hand(net, inputs, 2, rule, ceiling)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", [*WAYS, *CLIPPED])
def test_what_goes_forward_is_what_it_was(way, rule, inputs):
    """In place too: the network reads the argument again behind it."""
    model = wrap_module(net_of({**WAYS, **CLIPPED}[way]))
    plain = model.run(inputs).output
    assert torch.equal(model.run(inputs, rule=rule).output, plain)
    leaf = inputs.clone().requires_grad_()
    assert torch.equal(model.run(leaf, rule=rule).output, plain)


def test_both_ways_through_one_value_in_place(inputs):
    """What reads an argument that was written over gets its gradient through the ReLU too."""
    net = net_of(WAYS["Tensor.relu_"])
    found = wrap_module(net).subject().input_gradients(batch_of(inputs, [1] * 3), rule=whylight.GuidedRelu())
    leaf = inputs.clone().requires_grad_()
    hidden = 5 * net.before(leaf)
    active = hidden.detach().relu().requires_grad_()
    score = net.after((active + 0.1 * active.tanh()).mean((2, 3)))[:, 1].sum()
    (back,) = torch.autograd.grad(score, active)
    expected = torch.autograd.grad(hidden, leaf, back * (back > 0) * (active > 0))[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", [F.silu, F.hardtanh, F.hardswish, lambda x: F.leaky_relu(x, 0.1)])
def test_other_activations_keep_their_own_derivative(activation, inputs):
    model = wrap_module(net_of(activation))
    batch = batch_of(inputs, [0] * 3)
    plain = model.subject().input_gradients(batch)
    assert whylight.Need.RELU not in model.capabilities
    for rule in RULES:
        assert torch.equal(model.subject().input_gradients(batch, rule=rule), plain)


@pytest.mark.parametrize("way", [*WAYS, *CLIPPED])
def test_a_model_with_relu_of_any_kind_says_so(way):
    assert whylight.Need.RELU in wrap_module(net_of({**WAYS, **CLIPPED}[way])).capabilities


def test_modules_used_twice():
    """Guided where nothing negative comes back and all is active, is the gradient."""
    net = functional_relu_net().double()
    for parameter in net.parameters():
        parameter.data.abs_()
    inputs = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    subject = wrap_module(net).subject()
    batch = batch_of(inputs, [0, 3])
    plain = subject.input_gradients(batch)
    for rule in RULES:
        torch.testing.assert_close(subject.input_gradients(batch, rule=rule), plain, rtol=1e-12, atol=1e-14)


def test_equal_rules_share_what_a_batch_computed(inputs, monkeypatch):
    model = wrap_module(net_of(F.relu))
    batch = batch_of(inputs, [0, 1, 2])
    subject = model.subject()
    guided = subject.input_gradients(batch, rule=whylight.GuidedRelu())
    passes = []
    run = model.run
    monkeypatch.setattr(model, "run", lambda *args, **kwargs: passes.append(kwargs) or run(*args, **kwargs))
    assert subject.input_gradients(batch, rule=whylight.GuidedRelu()) is guided
    assert not passes
    assert not torch.equal(subject.input_gradients(batch, rule=whylight.DeconvnetRelu()), guided)
    assert len(passes) == 1


@pytest.mark.parametrize("rule", RULES)
def test_the_output_of_a_run_under_a_relu_rule_is_not_asked_for_again(rule, inputs, monkeypatch):
    model = wrap_module(net_of(F.relu))
    batch = batch_of(inputs, [0, 1, 2])
    plain = model.subject().outputs(batch)
    subject = model.subject()
    subject.input_gradients(batch, rule=rule)
    monkeypatch.delattr(type(model), "run")
    assert torch.equal(subject.outputs(batch), plain)
