"""Every gradient method passes the suite that we give to plugin authors, on every kind of network that it takes."""

from __future__ import annotations

from whylight.testing import MethodTests, functional_relu_net, relu_net
from whylight_gradients import (
    Deconvnet,
    DeepLift,
    ExpectedGradients,
    GradientShap,
    GuidedBackprop,
    IntegratedGradients,
    SmoothGrad,
    Taylor,
    VarGrad,
)


class TestGuidedBackprop(MethodTests):
    method = GuidedBackprop

    def network(self):
        return functional_relu_net()


class TestDeconvnet(MethodTests):
    method = Deconvnet
    options = {"reduce": "signed"}

    def network(self):
        return relu_net()


class TestTaylor(MethodTests):
    method = Taylor

    def network(self):
        return functional_relu_net()


class TestTaylorWithASearch(MethodTests):
    method = Taylor
    options = {"root": "blur", "search": True, "gradient_at": "root"}

    def network(self):
        return relu_net()


class TestIntegratedGradients(MethodTests):
    method = IntegratedGradients
    options = {"steps": 7, "baseline": "noise"}

    def network(self):
        return functional_relu_net()


class TestSmoothGrad(MethodTests):
    method = SmoothGrad
    options = {"samples": 3, "base": "guided-backprop"}

    def network(self):
        return functional_relu_net()


class TestSmoothGradOfIntegratedGradients(MethodTests):
    method = SmoothGrad
    options = {"samples": 3, "steps": 4, "base": "integrated-gradients", "baseline": "noise", "rule": "trapezoid"}


class TestVarGrad(MethodTests):
    method = VarGrad
    options = {"samples": 4, "base": "input-x-gradient"}

    def network(self):
        return relu_net()


class TestExpectedGradients(MethodTests):
    method = ExpectedGradients
    options = {"samples": 7, "baselines": ["blur", "noise", "shuffle", "mean"]}


class TestGradientShap(MethodTests):
    method = GradientShap
    options = {"samples": 3, "noise": 0.2}

    def network(self):
        return functional_relu_net()


class TestDeepLift(MethodTests):
    method = DeepLift

    def network(self):
        return relu_net()


class TestDeepLiftOfFunctions(MethodTests):
    method = DeepLift
    options = {"baseline": "blur", "profile": "captum"}

    def network(self):
        return functional_relu_net()
