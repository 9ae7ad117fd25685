"""Attention that is computed step by step is the model's own, and is taken where it is that of the whole picture."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F

from whylight.errors import Unsupported
from whylight.models import wrap_module
from whylight.subject.attention import CaptureAttention
from whylight.subject.backward_rule import under
from whylight.testing import tiny_vit
from whylight.testing.running import batch_of


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = numbers(5, 5, seed=9)
WAYS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "added mask": {"attn_mask": MASK},
    "mask of truth values": {"attn_mask": (MASK > -0.5) | torch.eye(5, dtype=torch.bool)},
}


@pytest.mark.parametrize("way", WAYS)
def test_attention_step_by_step_is_that_of_the_fused_kernel(way):
    query, key, value = (numbers(2, 4, 5, 3, seed=seed) for seed in range(3))
    expected = F.scaled_dot_product_attention(query, key, value, **WAYS[way])
    capture = CaptureAttention(2)
    with under(capture, ()):
        output = F.scaled_dot_product_attention(query, key, value, **WAYS[way])
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    (matrix,) = capture.matrices
    torch.testing.assert_close(matrix @ value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_keys_that_heads_share():
    query, key, value = numbers(1, 4, 5, 3), numbers(1, 2, 5, 3, seed=1), numbers(1, 2, 5, 3, seed=2)
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    capture = CaptureAttention(1)
    with under(capture, ()):
        output = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    assert capture.matrices[0].shape == (1, 4, 5, 5)


@pytest.mark.parametrize("softmax", [F.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax])
def test_every_way_to_call_softmax(softmax):
    scores = numbers(2, 3, 5, 5)
    capture = CaptureAttention(2)
    with under(capture, ()):
        by_position, by_name = softmax(scores, -1), softmax(scores, dim=3)
        softmax(scores, dim=1)
        softmax(scores[:, :, :1], dim=-1)
    assert len(capture.matrices) == 2
    assert not capture.foreign
    for given in (by_position, by_name, *capture.matrices):
        assert torch.equal(given, scores.softmax(-1))


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (2, 3, 5, 4), (1, 2, 3, 5, 5), (3, 5, 5)])
def test_what_is_not_between_all_tokens_of_each_input_is_foreign(shape):
    capture = CaptureAttention(2)
    with under(capture, ()):
        numbers(*shape).softmax(-1)
    assert capture.foreign
    assert not capture.matrices


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_matrices_are_wide_and_the_answer_stays(fused, precision):
    model = wrap_module(tiny_vit(fused=fused), precision=precision)
    inputs = numbers(2, 3, 32, 48).float()
    batch = batch_of(inputs, [0, 1])
    gradients = list(model.subject().attention_gradients(batch))
    plain = list(model.subject().attentions(batch))
    for one, other in zip(gradients, plain, strict=True):
        for matrix, same, gradient in zip(one.attentions, other.attentions, one.gradients, strict=True):
            assert matrix.dtype == gradient.dtype == torch.float32
            assert matrix.shape == gradient.shape == (1, 2, 25, 25)
            assert torch.equal(matrix, same)
            torch.testing.assert_close(
                matrix.sum(-1), torch.ones(1, 2, 25), atol=1e-5 if precision == "float32" else 0.01, rtol=0
            )
    if precision == "float32":
        with torch.no_grad():
            ran = model.run(inputs, rule=CaptureAttention(2)).output
        torch.testing.assert_close(ran, model.run(inputs).output, rtol=0, atol=1e-5)


def test_chunks_stay_under_the_budget():
    """On a CPU rows go one by one; elsewhere as many as the budget has room for."""
    model = wrap_module(tiny_vit())
    batch = batch_of(numbers(3, 3, 32, 48).float(), [0, 1, (2, 3)])
    assert [attended.numbers for attended in model.subject().attentions(batch)] == [(0,), (1,), (2,)]
    found = [attended.numbers for attended in model.subject().attention_gradients(batch)]
    assert found == [(0,), (1,), (2,), (3,)]


def test_many_rows_share_a_pass_where_the_device_is_no_cpu():
    """As many as the budget has room for, one target of each row at a time; the numbers are those of rows alone."""
    model, other = wrap_module(tiny_vit().double()), wrap_module(tiny_vit().double())
    other.device = torch.device("cuda")  # decides how rows are shared out; inputs and weights are where they were
    other.budget = 2 * (other.findings.bytes_per_row("") + 5 * other.attention.row_bytes)
    batch = batch_of(numbers(3, 3, 32, 48), [0, (1, 4, 2), 3])
    found = list(other.subject().attention_gradients(batch))
    assert [attended.numbers for attended in found] == [(0, 1), (2,), (3,), (4,)]
    alone = {attended.numbers[0]: attended for attended in model.subject().attention_gradients(batch)}
    for attended in found:
        for place, number in enumerate(attended.numbers):
            for kind in ("attentions", "gradients"):
                for many, one in zip(getattr(attended, kind), getattr(alone[number], kind), strict=True):
                    torch.testing.assert_close(many[place], one[0], rtol=1e-9, atol=1e-12)
    together = [attended.numbers for attended in other.subject().attentions(batch)]
    assert together == [(0, 1, 2)]


def test_gradients_are_those_of_attention_itself():
    """By finite differences of the answer along one entry, through what the run goes on with."""
    model = wrap_module(tiny_vit().double())
    batch = batch_of(numbers(1, 3, 16, 24), [3])
    (attended,) = model.subject().attention_gradients(batch)

    class Moved(CaptureAttention):
        def __init__(self, layer, step):
            super().__init__(1)
            self.layer, self.step = layer, step

        def _kept(self, probabilities):
            kept = super()._kept(probabilities).clone()
            if len(self.matrices) == self.layer + 1:
                kept[0, 1, 0, 5] += self.step
            return kept

    for layer in range(2):
        with torch.no_grad():
            up, down = (model.run(batch.inputs, rule=Moved(layer, step)).output[0, 3] for step in (1e-5, -1e-5))
        slope = float(up - down) / 2e-5
        assert float(attended.gradients[layer][0, 1, 0, 5]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_a_compiled_model_runs_uncompiled_and_gives_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    batch = batch_of(numbers(1, 3, 32, 48).float(), [0])
    matrices = []
    for model in (wrap_module(tiny_vit()), wrap_module(tiny_vit(), compile=True)):
        (attended,) = model.subject().attention_gradients(batch)
        matrices.append([*attended.attentions, *attended.gradients])
    assert all(map(torch.equal, *matrices))


def test_tokens_of_another_size_than_the_loaded_one():
    model = wrap_module(tiny_vit(), input_size=(32, 32))
    (attended,) = model.subject().attentions(batch_of(numbers(1, 3, 24, 40).float(), [0]))
    assert attended.on_picture(attended.read).shape == (1, 3, 5)
    (attended,) = model.subject().attentions(batch_of(numbers(1, 3, 30, 40).float(), [0]))
    with pytest.raises(Unsupported, match="16 tokens for an input of 30 x 40"):
        attended.on_picture(attended.read)
