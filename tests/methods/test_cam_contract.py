"""The methods that try channels, find components or compare classes pass the suite of every method."""

from __future__ import annotations

from whylight.testing import MethodTests, functional_relu_net, relu_net
from whylight_cam import CAM, AblationCAM, EigenCAM, FinerCAM, GradCAM, LayerCAM, ScoreCAM


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
