"""Measurements of a loaded model: whether batches change bits; knows no method and no request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from whylight.models.companion import Companion
    from whylight.models.model import Model

BATCHES = (2, 3, 8)


def example_inputs(count: int, channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return inputs `[count, channels, H, W]` of normal noise, the same ones each time, on the CPU."""
    source = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, *size, generator=source, dtype=torch.float32).to(dtype)


def example_companions(
    companions: Mapping[str, Companion], count: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Return the examples of companions, the same for each of `count` inputs; floats in the model's type."""
    made = {}
    for name, companion in companions.items():
        one = torch.from_numpy(companion.usual()).to(device)
        one = one.to(dtype) if one.is_floating_point() else one
        made[name] = one.expand(count, *one.shape).contiguous()
    return made


def is_batch_invariant(model: Model) -> bool:
    """Whether inputs get the same bits alone and in batches of 2, 3 and 8."""
    inputs = example_inputs(max(BATCHES), model.input_channels, model.input_size, model.dtype).to(model.device)
    alone = [_answers(model, inputs[row : row + 1], row) for row in range(max(BATCHES))]
    for count in BATCHES:
        together = _answers(model, inputs[:count], 0)
        for row in range(count):
            if not all(torch.equal(a[0], b[row]) for a, b in zip(alone[row], together, strict=True)):
                return False
    return True


def digest_of_answers(model: Model) -> str:
    """Return the SHA-256 of what is compared, the bits of outputs, activations and gradients, for one input."""
    inputs = example_inputs(1, model.input_channels, model.input_size, model.dtype).to(model.device)
    digest = hashlib.sha256()
    for answer in _answers(model, inputs, 0):
        digest.update(answer.contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _answers(model: Model, inputs: Tensor, first: int) -> list[Tensor]:
    """Return outputs, activations and gradients at the last layer and at the input; see `_gradients` for of what."""
    layer = model.last_spatial
    companions = example_companions(model.companions, len(inputs), model.dtype, model.device)
    with torch.enable_grad():
        leaf = inputs.clone().requires_grad_(True)
        whole = model.run(leaf, companions).output
        answers = [whole.detach()]
        if whole.requires_grad:
            answers.append(_gradients(whole, leaf, first))
        if layer is not None:
            ran = model.run(inputs, companions, split=layer)
            if ran.leaf is not None and ran.output.requires_grad:
                answers += [ran.leaf.detach(), _gradients(ran.output, ran.leaf, first)]
    return answers


def _gradients(output: Tensor, leaf: Tensor, first: int) -> Tensor:
    """Return the gradients at `leaf`; row r is asked for output 7 (first + r)."""
    cotangents = torch.zeros_like(output)
    flat = cotangents.flatten(1)
    for row in range(len(output)):
        flat[row, (7 * (first + row)) % flat.shape[1]] = 1
    (gradients,) = torch.autograd.grad(output, leaf, cotangents)
    return gradients
