"""The methods of relevance pass the suite of every method, under every composite."""

from __future__ import annotations

from whylight.testing import MethodTests, functional_relu_net, relu_net
from whylight_relevance import LRP, DeepTaylor


class TestEpsilonPlus(MethodTests):
    method = LRP


class TestEpsilon(MethodTests):
    method = LRP
    options = {"composite": "epsilon"}

    def network(self):
        return functional_relu_net()


class TestZero(MethodTests):
    method = LRP
    options = {"composite": "zero"}

    def network(self):
        return relu_net()


class TestEpsilonGammaBox(MethodTests):
    method = LRP
    options = {"composite": "epsilon-gamma-box"}

    def network(self):
        return functional_relu_net()


class TestEpsilonAlpha2Beta1Flat(MethodTests):
    method = LRP
    options = {"composite": "epsilon-alpha2-beta1-flat", "rules": {"features": "gamma", "features.0": "w-square"}}

    def network(self):
        return relu_net()


class TestDeepTaylor(MethodTests):
    method = DeepTaylor

    def network(self):
        return relu_net()


class TestDeepTaylorOfUnboundedInputs(MethodTests):
    method = DeepTaylor
    options = {"input": "unbounded"}
