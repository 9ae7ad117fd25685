"""Whatever runs, each row is given its own companions: plain, with gradients, altered, behind a layer, compiled."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import whylight
from whylight.errors import InvalidInput, Unsupported
from whylight.models import Companion, wrap_module
from whylight.subject import CancelToken
from whylight.subject.altered import shares_head

EXACT = {"rtol": 1e-12, "atol": 1e-12}
WORDS = Companion(shape=(3,), high=9, example=[1, 2, 3])


class Asked(nn.Module):
    """Multiplies the maps by what the words mean, or joins them, which one row cannot do for several."""

    def __init__(self, joins: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.words = nn.Embedding(10, 4)
        self.head = nn.Linear(8 if joins else 4, 5)
        self.joins = joins

    def forward(self, image: Tensor, words: Tensor, scale: Tensor) -> Tensor:
        maps = torch.tanh(self.conv(image))
        meant = self.words(words).mean(1)
        if self.joins:
            return self.head(torch.cat((maps.mean((2, 3)), meant), 1)) * scale
        return self.head((maps * meant[:, :, None, None]).mean((2, 3))) * scale


def made(joins: bool = False, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Asked(joins).double().eval()
    companions = {"words": WORDS, "scale": Companion(shape=(1,), dtype="float32", example=[1.0])}
    return net, wrap_module(net, input_size=(12, 16), companions=companions, **settings)


@pytest.fixture
def asked(noise):
    inputs = noise(3, 12, 16)
    words = torch.tensor([[1, 2, 3], [9, 9, 0], [4, 4, 4]])
    scale = torch.tensor([[1.0], [2.0], [-3.0]], dtype=torch.float64)
    targets = tuple(map(whylight.ClassIndex, (0, 2, 4, 1)))
    return whylight.Batch(inputs, targets, (0, 0, 1, 2), CancelToken(), (0, 1, 2), {"words": words, "scale": scale})


def expected_scores(net, inputs, batch):
    with torch.no_grad():
        scores = net(inputs, **batch.companions)
    return torch.stack([scores[row, target.index] for target, row in zip(batch.targets, batch.rows, strict=True)])


def test_outputs_and_gradients(asked):
    net, model = made()
    subject = model.subject()
    torch.testing.assert_close(subject.scores(asked), expected_scores(net, asked.inputs, asked), **EXACT)
    gradients = subject.input_gradients(asked)
    activations, at_layer = subject.layer_gradients(asked, "conv")
    assert activations.shape == (3, 4, 10, 14)
    for m, (target, row) in enumerate(zip(asked.targets, asked.rows, strict=True)):
        leaf = asked.inputs[row : row + 1].clone().requires_grad_(True)
        maps = net.conv(leaf)
        score = net(leaf, **asked.companions_at(slice(row, row + 1)))[0, target.index]
        torch.testing.assert_close(gradients[m], torch.autograd.grad(score, leaf)[0][0], **EXACT)
        behind = maps.detach().requires_grad_(True)
        meant = net.words(asked.companions["words"][row : row + 1]).mean(1)[:, :, None, None]
        again = (net.head((torch.tanh(behind) * meant).mean((2, 3))) * asked.companions["scale"][row])[0, target.index]
        torch.testing.assert_close(at_layer[m], torch.autograd.grad(again, behind)[0][0], **EXACT)


@pytest.mark.parametrize("budget", [None, 1])
def test_altered_copies(asked, budget):
    """With a budget of one byte every row runs alone: rows of copies must still find their own words."""
    net, model = made(memory_budget_bytes=budget)
    copies = [asked.inputs * (k + 1) for k in range(5)]
    scores = list(model.subject().altered_scores(asked, 5, lambda k: copies[k]))
    assert len(scores) == 5
    for k, values in enumerate(scores):
        torch.testing.assert_close(values, expected_scores(net, copies[k], asked), **EXACT)
    for altered in model.subject().altered_gradients(asked, 5, lambda k: copies[k]):
        torch.testing.assert_close(altered.scores, expected_scores(net, copies[altered.index], asked), **EXACT)


@pytest.mark.parametrize("joins", [False, True])
def test_a_layer_is_altered(asked, joins):
    net, model = made(joins)
    found = list(model.subject().altered_layer_scores(asked, "conv", 2, lambda row, k, maps: maps * k))
    assert shares_head(model.subject(), asked, 0, "conv") is not joins
    for place, (row, values) in enumerate(found):
        k = place % 2
        hook = net.conv.register_forward_hook(lambda module, given, output, k=k: output * k)
        with torch.no_grad():
            scores = net(asked.inputs[row : row + 1], **asked.companions_at(slice(row, row + 1)))[0]
        hook.remove()
        wanted = [target.index for target, at in zip(asked.targets, asked.rows, strict=True) if at == row]
        torch.testing.assert_close(values, scores[wanted], **EXACT)


def test_what_is_known_of_one_question_is_not_told_of_another(asked):
    net, model = made()
    subject = model.subject()
    subject.outputs(asked)
    turned = {name: values.flip(0) for name, values in asked.companions.items()}
    other = dataclasses.replace(asked, companions=turned)
    torch.testing.assert_close(subject.outputs(other), net(other.inputs, **turned).detach(), **EXACT)


def test_without_companions_the_model_says_what_it_needs(asked):
    _, model = made()
    with pytest.raises(Unsupported, match="takes words, scale besides the picture"):
        model.subject().forward(asked.inputs)


def test_a_compiled_model_takes_companions(asked, monkeypatch):
    """The compiler itself is left out: what matters is what is handed to it."""
    calls = []

    def compiled(module):
        return lambda *arguments, **companions: (calls.append(sorted(companions)), module(*arguments, **companions))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    net, model = made(compile=True)
    torch.testing.assert_close(model.subject().scores(asked), expected_scores(net, asked.inputs, asked), **EXACT)
    assert calls == [["scale", "words"]] * len(calls)
    assert calls


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (3,)}, "needs 'high'"),
        ({"shape": (3,), "high": -1}, "needs 'high'"),
        ({"shape": (0,), "high": 3}, "1 or more, or -1"),
        ({"shape": (2,), "high": 3, "example": [1, 2, 3]}, "the example does not fit"),
        ({"shape": (2,), "high": 3, "example": [1, 4]}, "the example does not fit"),
        ({"shape": (2,), "high": 3, "example": [0.5, 1.5]}, "the example does not fit"),
    ],
)
def test_what_is_no_companion_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Companion(**settings)


def test_a_module_that_does_not_take_it_is_refused_when_it_is_wrapped():
    with pytest.raises(InvalidInput, match="does not run"):
        wrap_module(nn.Sequential(nn.Conv2d(3, 4, 3)), input_size=(8, 8), companions={"words": WORDS})


def test_latents_have_gradients_though_they_take_companions():
    class Coded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.words, self.code = nn.Conv2d(3, 4, 3), nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, image: Tensor, words: Tensor) -> dict[str, Tensor]:
            code = self.code(self.conv(image).mean((2, 3)) + self.words(words).mean(1))
            return {"code": code, "answer": code}

    torch.manual_seed(0)
    model = wrap_module(
        Coded().double(), input_size=(8, 12), output="answer", latent="code", companions={"words": WORDS}
    )
    batch = whylight.Batch(
        torch.randn(2, 3, 8, 12, dtype=torch.float64),
        (whylight.Latent(0), whylight.Latent(1)),
        (0, 1),
        CancelToken(),
        companions={"words": torch.tensor([[1, 2, 3], [4, 5, 6]])},
    )
    _, gradients = model.subject().layer_gradients(batch, "conv")
    expected = model.module.code.weight[:, :, None, None].expand_as(gradients) / gradients[0, 0].numel()
    torch.testing.assert_close(gradients, expected, **EXACT)
