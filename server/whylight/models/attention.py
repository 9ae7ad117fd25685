"""Finds out what a model's attention is like, if it has any over the whole picture; knows no method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.models.probe import example_companions, example_inputs
from whylight.subject.attention import AttentionForm, CaptureAttention

if TYPE_CHECKING:
    from whylight.models.model import Model


def find_attention(model: Model, example: Tensor) -> AttentionForm | None:
    """Return the form of the attention in a pass of `example` `[1, C, H, W]`; None if it is not that of a transformer.

    All attentions must be between the same tokens, and these lie on the picture: there is none for windows (Swin),
    several resolutions (MViT), channels (XCiT), or two sequences. Which tokens the head reads is told by the gradient
    of the output at the last matrix: it is 0 in the rows of all others.
    """
    capture = CaptureAttention(len(example))
    companions = example_companions(model.companions, len(example), model.dtype, model.device)
    with torch.enable_grad():
        ran = model.run(example, companions, rule=capture)
    if not capture.of_one_kind() or not ran.output.requires_grad:
        return None
    last = capture.matrices[-1]
    layouts = [
        layout
        for name, layout in model.findings.layouts.items()
        if layout.channel_axis == 1 and model.findings.shapes[name][0] == last.shape[-1]
    ]
    cotangent = example_inputs(1, 1, (1, ran.output.numel()), torch.float64).reshape(ran.output.shape).to(ran.output)
    (gradient,) = torch.autograd.grad(ran.output, last, cotangent, allow_unused=True)
    if not layouts or gradient is None:
        return None
    layout = layouts[-1]
    read = gradient.ne(0).any(3).any(1).any(0)
    leading = tuple(read[: layout.leading].nonzero().flatten().tolist())
    grid = bool(read[layout.leading :].any())
    if not leading and not grid:
        return None
    row_bytes = sum(matrix.nbytes for matrix in capture.matrices) // len(example)
    return AttentionForm(len(capture.matrices), layout, leading, grid, row_bytes)
