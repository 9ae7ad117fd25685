"""Every method of ours passes the suite that we give to plugin authors, on every kind of network that it takes."""

from __future__ import annotations

import pytest

from whylight.explainer import Explainer
from whylight.models import wrap_module
from whylight.plugins import OfferedMethod
from whylight.testing import MethodTests, conv_gap_net, functional_relu_net, relu_net
from whylight_cam import CAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from whylight_gradients import InputXGradient, Saliency


class TestCAM(MethodTests):
    method = CAM


class TestGradCAM(MethodTests):
    method = GradCAM


class TestGradCAMWithoutClosedForm(MethodTests):
    method = GradCAM

    def network(self):
        return relu_net()


class TestGradCAMAtAnEarlyLayer(MethodTests):
    method = GradCAM
    options = {"layer": "stem", "profile": "captum"}

    def network(self):
        return functional_relu_net()


class TestGradCAMPlusPlus(MethodTests):
    method = GradCAMPlusPlus
    options = {"profile": "pytorch-grad-cam"}

    def network(self):
        return relu_net()


class TestGradCAMPlusPlusOfAClosedForm(MethodTests):
    method = GradCAMPlusPlus


class TestXGradCAM(MethodTests):
    method = XGradCAM
    options = {"profile": "torchcam"}

    def network(self):
        return functional_relu_net()


class TestLayerCAM(MethodTests):
    method = LayerCAM
    options = {"layer": "features.1"}

    def network(self):
        return relu_net()


class TestHiResCAM(MethodTests):
    method = HiResCAM
    options = {"layer": "features.2"}

    def network(self):
        return conv_gap_net()


class TestSaliency(MethodTests):
    method = Saliency

    def network(self):
        return relu_net()


class TestSignedSaliency(MethodTests):
    method = Saliency
    options = {"reduce": "signed"}

    def network(self):
        return functional_relu_net()


class TestInputXGradient(MethodTests):
    method = InputXGradient

    def network(self):
        return functional_relu_net()


@pytest.mark.parametrize("method", [GradCAM, GradCAMPlusPlus, XGradCAM, LayerCAM, HiResCAM])
def test_the_family_is_rectified_when_drawn(method):
    assert method().presentation(method.Options()).rectified


def test_cam_keeps_its_negative_part():
    assert not CAM().presentation(CAM.Options()).rectified


def test_what_has_a_sign_says_so():
    assert InputXGradient().presentation(InputXGradient.Options()).signed
    assert Saliency().presentation(Saliency.Options(reduce="signed")).signed
    assert not Saliency().presentation(Saliency.Options()).signed


@pytest.mark.parametrize("method", [GradCAM, GradCAMPlusPlus, XGradCAM, LayerCAM, HiResCAM])
def test_a_named_layer_may_cost_a_pass_back_and_the_last_one_does_not(method):
    explainer = Explainer({"net": wrap_module(relu_net())}, {"it": OfferedMethod(method(), "cam", "whylight")})
    last = explainer.plan("net", "it", {})
    named = explainer.plan("net", "it", {"layer": "features.0"})
    assert (last.cost, last.cost_per_target) == (1.0, 0.1)
    assert (named.cost, named.cost_per_target) == (2.0, 1.0)
    assert last.methods[0].options.layer == "features.4"  # as VGG: the maps before the last pooling
