"""Finds the last layer of a transformer whose tokens lie on the picture and still matter; knows no method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.errors import Unsupported
from whylight.models.probe import example_companions, example_inputs

if TYPE_CHECKING:
    from whylight.models.model import Model


def find_last_tokens(model: Model, example: Tensor) -> str | None:
    """Return the last layer that gives tokens of the picture on which the output of `example` depends.

    Behind the last attention of a transformer whose head reads the class token alone, the other tokens matter to
    nobody, and what a layer gives there explains nothing. Candidates have as many channels as the last tokens have, so
    that what is found is the stream of tokens and no product of queries and keys. For ViT-B/16 of torchvision that is
    the first normalisation of the last block, the layer that pytorch-grad-cam recommends.
    """
    tokens = {name: layout for name, layout in model.findings.layouts.items() if layout.channel_axis == 1}
    if not tokens:
        return None
    channels = model.findings.shapes[next(reversed(tokens))][1]
    names = [name for name in tokens if model.findings.shapes[name][1] == channels]
    with torch.enable_grad():
        try:
            companions = example_companions(model.companions, len(example), model.dtype, model.device)
            ran = model.run(example.clone().requires_grad_(True), companions, watch=names)
        except Unsupported:  # a layer's output is changed in place
            return None
        cotangents = example_inputs(1, 1, (1, ran.output.numel()), torch.float64).reshape(ran.output.shape)
        watched = [ran.watched[name] for name in names]
        found = torch.autograd.grad(ran.output, watched, cotangents.to(ran.output), allow_unused=True)
    for name, gradient in zip(reversed(names), reversed(found), strict=True):
        if gradient is not None and bool(gradient[:, tokens[name].leading :].any()):
            return name
    return None
