"""The methods for transformers pass the suite of every method."""

from __future__ import annotations

import torch
from torch import nn

from whylight.testing import MethodTests, tiny_vit
from whylight_cam import AttentionRollout, Chefer


class TestAttentionRollout(MethodTests):
    method = AttentionRollout

    def network(self):
        return tiny_vit()


class TestAttentionRolloutWithoutTheLowest(MethodTests):
    method = AttentionRollout
    options = {"head_fusion": "max", "discard_ratio": 0.9}

    def network(self):
        return tiny_vit(fused=False)


class TestChefer(MethodTests):
    method = Chefer

    def network(self):
        return tiny_vit()


class EncoderNet(nn.Module):
    """Encoder layers of torch, which have a fast path of their own, and no class token: all tokens are averaged."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, inputs):
        return self.head(self.encoder(self.patches(inputs).flatten(2).transpose(1, 2)).mean(1))


class TestCheferOfMultiheadAttention(MethodTests):
    method = Chefer

    def network(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return EncoderNet().eval()
