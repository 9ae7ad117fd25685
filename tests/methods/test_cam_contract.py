"""The methods that try channels, find components or compare classes pass the suite of every method."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from whylight.testing import MethodTests, functional_relu_net, relu_net
from whylight_cam import CAM, AblationCAM, EigenCAM, FinerCAM, GradCAM, GuidedGradCAM, LayerCAM, ScoreCAM, ShapleyCAM


def curved_net():
    """A network that is curved behind every layer: SiLU, a gate, a softmax at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU(), nn.Conv2d(8, 12, 3, stride=2), nn.GLU(1))
        head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5), nn.Softmax(1))
    return nn.Sequential(OrderedDict(body=body, head=head)).eval()


class TestScoreCAM(MethodTests):
    method = ScoreCAM


class TestScoreCAMOfAFewChannels(MethodTests):
    method = ScoreCAM
    options = {"top_k": 5, "layer": "features.1", "profile": "torchcam"}

    def network(self):
        return relu_net()


class TestAblationCAM(MethodTests):
    method = AblationCAM


class TestAblationCAMWithSkipsOverTheLayer(MethodTests):
    method = AblationCAM
    options = {"layer": "left", "top_k": 4, "profile": "pytorch-grad-cam"}

    def network(self):
        return functional_relu_net()


class TestEigenCAM(MethodTests):
    method = EigenCAM


class TestEigenCAMOfSeveralLayers(MethodTests):
    method = EigenCAM
    options = {"layers": ["features.1", "features.4"], "fuse": "max"}

    def network(self):
        return relu_net()


class TestFinerCAM(MethodTests):
    method = FinerCAM


class TestFinerCAMByProbability(MethodTests):
    method = FinerCAM
    options = {"references": 4, "profile": "pytorch-grad-cam", "scheme": "layer-cam", "layer": "features.4"}

    def network(self):
        return relu_net()


class TestGradCAMOfSeveralLayers(MethodTests):
    method = GradCAM
    options = {"layers": ["stem", "last"], "profile": "torchcam"}

    def network(self):
        return functional_relu_net()


class TestSmoothedLayerCAM(MethodTests):
    method = LayerCAM
    options = {"smooth": True, "layers": ["features.1", "features.4"], "profile": "pytorch-grad-cam"}

    def network(self):
        return relu_net()


class TestSmoothedCAM(MethodTests):
    method = CAM
    options = {"smooth": True}


class TestShapleyCAM(MethodTests):
    method = ShapleyCAM


class TestShapleyCAMOfACurvedNetwork(MethodTests):
    method = ShapleyCAM
    options = {"layer": "body.1"}

    def network(self):
        return curved_net()


class TestGuidedGradCAM(MethodTests):
    method = GuidedGradCAM

    def network(self):
        return functional_relu_net()


class TestSignedGuidedGradCAM(MethodTests):
    method = GuidedGradCAM
    options = {"reduce": "signed", "layers": ["features.1", "features.4"]}

    def network(self):
        return relu_net()
