"""Attention that is computed step by step is the model's own, and is taken where it is that of the whole picture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

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
