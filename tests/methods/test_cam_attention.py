"""Attention rollout and Chefer's method, by their papers' formulas from attention that the tests take themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whylight
from whylight.models import wrap_module
from whylight.testing import relu_net, run_method, tiny_vit
from whylight.testing.running import batch_of
from whylight_cam import AttentionRollout, Chefer

INPUTS = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def rollout_by_paper(attentions, fuse=lambda a: a.mean(0), discard=0.0):
    """All of R `[T, T]`, from attentions `[heads, T, T]` of one input: equation 1 of Abnar and Zuidema."""
    rolled = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype)
    for attention in attentions:
        fused = fuse(attention).clone()
        order = fused.flatten().argsort()[: int(fused.numel() * discard)]
        fused.view(-1)[order[order != 0]] = 0
        mixed = (fused + torch.eye(len(fused), dtype=fused.dtype)) / 2
        rolled = (mixed / mixed.sum(1)[:, None]) @ rolled
    return rolled


def chefer_by_paper(attentions, score):
    """All of R `[T, T]`, from attentions `[heads, T, T]` of one input and a scalar made of them: equations 5 and 6."""
    relevance = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype)
    for attention, gradient in zip(attentions, torch.autograd.grad(score, attentions, retain_graph=True), strict=True):
        relevance = relevance + (gradient * attention).clamp(min=0).mean(0) @ relevance
    return relevance.detach()


def first_tokens(network, input):
    maps = F.conv2d(input[None], network.patches.weight, network.patches.bias, stride=8)
    tokens = (maps + F.interpolate(network.positions, maps.shape[2:], mode="bilinear"))[0].flatten(1).T
    return torch.cat([network.class_token[0], tokens])


def attention_of_tiny_vit(network, input):
    """The net once more, written down for one input: its attentions `[heads, T, T]` and its scores."""
    tokens = first_tokens(network, input)
    attentions = []
    for block in network.blocks:
        heads = []
        queries, keys, values = block.qkv(block.norm1(tokens)).chunk(3, 1)
        for query, key, value in zip(queries.chunk(2, 1), keys.chunk(2, 1), values.chunk(2, 1), strict=True):
            heads.append((torch.softmax(query @ key.T / query.shape[1] ** 0.5, 1), value))
        attentions.append(torch.stack([attention for attention, _ in heads]))
        mixed = [a @ value for a, (_, value) in zip(attentions[-1], heads, strict=True)]
        tokens = tokens + block.proj(torch.cat(mixed, 1))
        tokens = tokens + block.mlp(block.norm2(tokens))
    return attentions, network.head(network.norm(tokens)[0])


@pytest.mark.parametrize("fused", [True, False])
def test_the_papers_formulas_on_a_net_written_by_hand(fused):
    """To 1e-10: float64, another order of the products."""
    network = tiny_vit(fused=fused).double()
    model = wrap_module(network)
    rollouts = run_method(AttentionRollout, model, INPUTS, [0, 1]).maps
    relevances = run_method(Chefer, model, INPUTS, [(0, 4), 1]).maps
    assert rollouts.shape == (2, 4, 6)
    for row, classes in enumerate([(0, 4), (1,)]):
        attentions, scores = attention_of_tiny_vit(network, INPUTS[row])
        expected = rollout_by_paper(attentions)[0, 1:].view(4, 6)
        torch.testing.assert_close(rollouts[row], expected.detach(), rtol=0, atol=1e-10)
        for place, index in enumerate(classes):
            expected = chefer_by_paper(attentions, scores[index])[0, 1:].view(4, 6)
            torch.testing.assert_close(relevances[2 * row + place], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("discard", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_the_options_of_rollout(fusion, discard):
    fuse = {"mean": lambda a: a.mean(0), "max": lambda a: a.max(0).values, "min": lambda a: a.min(0).values}[fusion]
    network = tiny_vit().double()
    maps = run_method(AttentionRollout, network, INPUTS, None, {"head_fusion": fusion, "discard_ratio": discard}).maps
    for row, input in enumerate(INPUTS):
        expected = rollout_by_paper(attention_of_tiny_vit(network, input)[0], fuse, discard)[0, 1:].view(4, 6)
        torch.testing.assert_close(maps[row], expected.detach(), rtol=0, atol=1e-10)


def timm_vit(**settings):
    pytest.importorskip("timm")
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 5}
        network = VisionTransformer(**sizes, **settings).double().eval()
        for parameter in network.parameters():  # as if trained: timm begins with a head and tokens next to 0
            parameter.data.normal_(0, 0.15)
    return network


def attention_of_timm(network, input):
    """Attentions `[heads, T, T]` and scores, by hooks on the layer through which timm sends its probabilities."""
    kept = []

    def keep(module, given, output):
        kept.append(output[0])
        return kept[-1][None]  # gradients are taken at what is kept: the rest has to come from it

    handles = []
    for block in network.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(keep))
    scores = network(input[None])[0]
    for handle in handles:
        handle.remove()
    return kept, scores


TOKENS = {
    "a class token": ({}, 1, slice(0, 1)),
    "a class token and registers": ({"reg_tokens": 3}, 4, slice(0, 1)),
    "no class token, all patches averaged": ({"class_token": False, "global_pool": "avg"}, 0, slice(0, None)),
    "a class token that nobody reads, and registers": ({"reg_tokens": 2, "global_pool": "avg"}, 3, slice(3, None)),
    "a pooling by attention": ({"class_token": False, "global_pool": "map"}, 0, slice(0, None)),
}


@pytest.mark.parametrize("case", TOKENS)
@pytest.mark.parametrize("fused", [True, False])
def test_vision_transformers_of_timm(case, fused):
    """With attention fused or not; the row of the tokens that the head reads, at the patches."""
    settings, leading, read = TOKENS[case]
    network = timm_vit(**settings)
    for block in network.blocks:
        block.attn.fused_attn = fused
    model = wrap_module(network, input_size=(32, 48))
    rollouts = run_method(AttentionRollout, model, INPUTS, [0, 1]).maps
    relevances = run_method(Chefer, model, INPUTS, [3, 1]).maps
    for row, index in enumerate([3, 1]):
        attentions, scores = attention_of_timm(network, INPUTS[row])
        whole = rollout_by_paper(attentions).detach()
        torch.testing.assert_close(rollouts[row], whole[read].mean(0)[leading:].view(4, 6), rtol=0, atol=1e-10)
        whole = chefer_by_paper(attentions, scores[index])
        torch.testing.assert_close(relevances[row], whole[read].mean(0)[leading:].view(4, 6), rtol=0, atol=1e-10)


def test_class_and_distillation_tokens_are_both_read():
    pytest.importorskip("timm")
    from timm.models.deit import VisionTransformerDistilled

    torch.manual_seed(0)
    network = VisionTransformerDistilled(
        img_size=(32, 48), patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5, weight_init="skip"
    )
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.15)
    model = wrap_module(network.eval(), input_size=(32, 48))
    assert model.attention.leading_read == (0, 1)
    assert not model.attention.grid_read
    attended = next(model.subject().attentions(batch_of(INPUTS.float())))
    assert attended.read[0, :3].tolist() == [0.5, 0.5, 0.0]


def torchvision_vit():
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).double().eval()
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.2)
    return network


def test_vision_transformers_of_torchvision():
    """Its blocks are of `nn.MultiheadAttention`, whose own weights are the oracle."""
    network = torchvision_vit()
    inputs = INPUTS[:, :, :, :32]
    maps = run_method(AttentionRollout, wrap_module(network, input_size=(32, 32)), inputs).maps
    seen = []
    for layer in network.encoder.layers:
        layer.self_attention.register_forward_pre_hook(lambda module, given: seen.append((module, given[0].detach())))
    network(inputs)
    weights = [m(x, x, x, need_weights=True, average_attn_weights=False)[1].detach() for m, x in list(seen)]
    for row in range(2):
        expected = rollout_by_paper([weight[row] for weight in weights])[0, 1:].view(4, 4)
        torch.testing.assert_close(maps[row], expected, rtol=0, atol=1e-10)


class WeightsToo(nn.Module):
    """`nn.MultiheadAttention` that is asked for its weights, and so computes attention by another way."""

    def __init__(self, need_weights):
        super().__init__()
        self.need_weights = need_weights
        self.patches = nn.Conv2d(3, 12, 8, stride=8)
        self.attention = nn.ModuleList(nn.MultiheadAttention(12, 3, batch_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)

    def forward(self, inputs):
        tokens = self.norm(self.patches(inputs).flatten(2).transpose(1, 2))
        for attention in self.attention:
            tokens = tokens + attention(tokens, tokens, tokens, need_weights=self.need_weights)[0].tanh()
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("method", [AttentionRollout, Chefer])
def test_attention_is_the_same_where_its_weights_are_asked_for(method):
    torch.manual_seed(0)
    one, other = WeightsToo(True).double().eval(), WeightsToo(False).double().eval()
    other.load_state_dict(one.state_dict())
    maps = [run_method(method, network, INPUTS, [0, 1]).maps for network in (one, other)]
    torch.testing.assert_close(*maps, rtol=0, atol=1e-12)
    assert float(maps[0].std()) > 1e-6


def windows():
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=5)


class NonLocal(nn.Module):
    """Convolutions with one attention between positions among them: no stream of tokens to follow."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 8, stride=8)
        self.second = nn.Conv2d(6, 5, 3)

    def forward(self, inputs):
        maps = self.first(inputs)
        tokens = maps.flatten(2)
        mixed = tokens @ (tokens.transpose(1, 2) @ tokens).softmax(-1)
        return self.second(maps + mixed.view_as(maps)).mean((2, 3))


@pytest.mark.parametrize("method", [AttentionRollout, Chefer])
@pytest.mark.parametrize("make", [relu_net, windows, NonLocal, lambda: nn.Sequential(relu_net(), nn.Softmax(1))])
def test_a_network_without_attention_over_the_picture_is_refused(method, make):
    model = wrap_module(make().eval(), input_size=(32, 32))
    assert whylight.Need.ATTENTION not in model.capabilities
    with pytest.raises(whylight.Unsupported, match="attention"):
        run_method(method, model, INPUTS.float())


def test_chefer_tells_classes_apart_and_rollout_does_not():
    model = wrap_module(tiny_vit())
    inputs = INPUTS[:1].float()
    rollouts = run_method(AttentionRollout, model, inputs, [(0, 1)]).maps
    relevances = run_method(Chefer, model, inputs, [(0, 1)]).maps
    assert torch.equal(*rollouts)
    assert float(torch.corrcoef(relevances.flatten(1))[0, 1]) < 0.9


def test_targets_of_an_input_share_its_pass_forward(monkeypatch):
    model = wrap_module(tiny_vit())
    runs = []
    run = model.run

    def counted(inputs, *args, **named):
        runs.append(len(inputs))
        return run(inputs, *args, **named)

    monkeypatch.setattr(model, "run", counted)
    run_method(Chefer, model, INPUTS.float(), [(0, 1, 2, 3), (4, 2)])
    assert runs == [1, 1]


def test_chefer_explains_a_neuron_behind_attention():
    """Attention behind the neuron adds nothing; the row is that of the neuron's token (the first of its indices)."""
    network = tiny_vit().double()
    maps = run_method(Chefer, network, INPUTS, [2, whylight.Neuron("blocks.0.proj", 7, (3,))]).maps
    attentions, _ = attention_of_tiny_vit(network, INPUTS[1])
    block = network.blocks[0]
    values = block.qkv(block.norm1(first_tokens(network, INPUTS[1])))[:, 32:].chunk(2, 1)
    mixed = torch.cat([attention @ value for attention, value in zip(attentions[0], values, strict=True)], 1)
    whole = chefer_by_paper(attentions[:1], block.proj(mixed)[7, 3])
    torch.testing.assert_close(maps[1], whole[7, 1:].view(4, 6), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", [AttentionRollout, Chefer])
def test_a_narrow_model_gives_wide_maps_that_agree(method):
    wide = wrap_module(tiny_vit())
    narrow = wrap_module(tiny_vit(), precision="bfloat16")
    inputs = INPUTS.float()
    expected, maps = (run_method(method, model, inputs, [0, 1]).maps for model in (wide, narrow))
    assert maps.dtype == torch.float32
    for one, other in zip(maps.flatten(1), expected.flatten(1), strict=True):
        assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > 0.98
