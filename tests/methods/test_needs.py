"""A network that lacks what a method needs is refused, with words that say what is missing."""

from __future__ import annotations

import pytest
import torch

import whylight
from whylight.testing import functional_relu_net, relu_net, run_method, tuple_output_net
from whylight.testing.networks import conv_gap_net
from whylight_cam import CAM, GradCAM
from whylight_gradients import InputXGradient, Saliency

INPUTS = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("network", [relu_net, functional_relu_net])
def test_cam_is_refused_where_no_linear_layer_follows_average_pooling(network):
    with pytest.raises(whylight.Unsupported, match="gap-head"):
        run_method(CAM, network(), INPUTS)


@pytest.mark.parametrize("target", [whylight.Neuron("features.3", 2), whylight.Neuron("features.3", 2, (1, 1))])
def test_cam_explains_classes_only(target):
    with pytest.raises(whylight.Unsupported, match="explains the score of a class, not a Neuron") as caught:
        run_method(CAM, conv_gap_net(), INPUTS, [0, target])
    assert caught.value.reason == "TARGET_UNSUPPORTED"


def test_cam_takes_every_way_to_name_a_class():
    named = run_method(CAM, conv_gap_net(), INPUTS[:1], [(3, whylight.OutputIndex((3,)))]).maps
    assert torch.equal(named[0], named[1])


def test_grad_cam_explains_a_neuron():
    """By the definition: the mean gradient of the unit, times the activations of an earlier layer."""
    network = conv_gap_net().double()
    inputs = INPUTS.double()
    target = whylight.Neuron("features.3", 2, (4, 5))
    maps = run_method(GradCAM, network, inputs, [target, target], {"layer": "features.0"}).maps
    activations = network.features[0](inputs).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(network.features[1:4](activations)[:, 2, 4, 5].sum(), activations)
    torch.testing.assert_close(maps, (gradients.mean((2, 3), keepdim=True) * activations).sum(1).detach())


def test_a_layer_on_which_the_target_does_not_depend_is_named():
    target = whylight.Neuron("features.0", 2)
    with pytest.raises(whylight.Unsupported, match=r"does not depend on layer 'features\.3'") as caught:
        run_method(GradCAM, conv_gap_net(), INPUTS, [target, target], {"layer": "features.3"})
    assert caught.value.reason == "TARGET_UNSUPPORTED"


def test_an_unknown_layer_is_not_found():
    with pytest.raises(whylight.NotFound) as caught:
        run_method(GradCAM, conv_gap_net(), INPUTS, [0, 1], {"layer": "featurs.3"})
    assert "features.3" in caught.value.message


@pytest.mark.parametrize("method", [CAM, GradCAM, Saliency, InputXGradient])
def test_a_network_that_gives_a_tuple(method):
    """Explained as the network that gives its first part alone."""
    from whylight.models import wrap_module

    several = wrap_module(tuple_output_net(), output="0")
    alone = conv_gap_net()
    alone.load_state_dict(tuple_output_net().state_dict())
    maps = run_method(method, several, INPUTS, [0, 4]).maps
    assert torch.equal(maps, run_method(method, alone, INPUTS, [0, 4]).maps)
