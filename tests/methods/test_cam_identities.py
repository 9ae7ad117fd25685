"""What must hold of the younger maps on paper, in float64: I6 and I11 of research/methods.md, and the formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import whylight
from whylight.testing import conv_gap_net, relu_net, run_method
from whylight_cam import AblationCAM, FinerCAM, GradCAM, LayerCAM, ScoreCAM, ShapleyCAM

INPUTS = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
TARGETS = [1, 4, (0, 3)]


def close(one, other, tolerance=1e-9):
    assert float(other.abs().max()) > 0
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@pytest.mark.parametrize(("scheme", "plain"), [("grad-cam", GradCAM), ("layer-cam", LayerCAM)])
def test_i6_finer_cam_without_references_weight_is_its_scheme(scheme, plain):
    net = relu_net().double()
    finer = run_method(FinerCAM, net, INPUTS, TARGETS, {"alpha": 0, "scheme": scheme}).maps
    close(finer, run_method(plain, net, INPUTS, TARGETS).maps)


def test_finer_cam_is_linear_in_its_references():
    net = relu_net().double()
    finer = run_method(FinerCAM, net, INPUTS[:1], [1], {"references": [0, 2], "alpha": 0.5}).maps[0]
    one, first, second = run_method(GradCAM, net, INPUTS[:1], [(1, 0, 2)]).maps
    close(finer, one - 0.25 * (first + second))


@pytest.mark.parametrize("wrong", [[1], [5], [-1], [], 0, -1])
def test_references_are_other_classes(wrong):
    with pytest.raises(whylight.InvalidInput, match="references must be other classes than 1"):
        run_method(FinerCAM, relu_net(), INPUTS[:1].float(), [1], {"references": wrong})


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = relu_net()

    def forward(self, inputs):
        return self.network(inputs) + 7


def test_i11_score_cam_does_not_see_a_shift_of_all_scores():
    plain = run_method(ScoreCAM, relu_net().double(), INPUTS, TARGETS, {"layer": "features.4"}).maps
    close(run_method(ScoreCAM, Shifted().double(), INPUTS, TARGETS, {"layer": "network.features.4"}).maps, plain)


def test_ablation_cam_of_a_linear_head_is_the_share_of_each_channel():
    net = conv_gap_net().double()
    with torch.no_grad():
        maps = net.features(INPUTS)[:1]
        score = net(INPUTS[:1])[0, 2]
        weights = net.head.weight[2] * maps[0].mean((1, 2)) / score
        expected = (weights[:, None, None] * maps[0]).sum(0)
    close(run_method(AblationCAM, net, INPUTS[:1], [2]).maps[0], expected)


def test_shapley_cam_behind_relu_is_grad_cam():
    net = relu_net().double()
    shapley = run_method(ShapleyCAM, net, INPUTS, TARGETS, {"layer": "features.1"}).maps
    close(shapley, run_method(GradCAM, net, INPUTS, TARGETS, {"layer": "features.1"}).maps)


@pytest.mark.parametrize("method", [ScoreCAM, AblationCAM])
def test_all_channels_are_tried_where_more_are_allowed(method):
    net = relu_net().double()
    assert torch.equal(
        run_method(method, net, INPUTS, TARGETS, {"top_k": 1000}).maps, run_method(method, net, INPUTS, TARGETS).maps
    )
