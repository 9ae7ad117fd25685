"""What must hold between the methods on paper, held in float64; the numbers are those of research/methods.md, 5.2."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import whylight
from whylight import ops
from whylight.models import wrap_module
from whylight.testing import conv_gap_net, functional_relu_net, relu_net, run_method
from whylight_cam import CAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from whylight_gradients import InputXGradient, Saliency

INPUTS = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
TARGETS = [1, 4, (0, 3)]
POSITIONS = 8 * 12  # of the last maps, for these inputs


class WithoutClosedForm(nn.Module):
    """The same network, with a last step that does nothing but hide its head from whoever looks for closed forms."""

    def __init__(self) -> None:
        super().__init__()
        self.network = conv_gap_net()

    def forward(self, inputs):
        return self.network(inputs).clamp(-1e9, 1e9)


@pytest.fixture(scope="module", params=["closed form", "backward"])
def gap(request):
    """The network with the closed form, and how to name its last maps: once as it is, once by a real backward pass."""
    if request.param == "closed form":
        return wrap_module(conv_gap_net().double()), "last-spatial", conv_gap_net().double()
    return wrap_module(WithoutClosedForm().double()), "network.features.4", conv_gap_net().double()


def maps(method, gap, **options):
    model, layer, _ = gap
    return run_method(method, model, INPUTS, TARGETS, {"layer": layer, **options}).maps


def close(one, other, tolerance=1e-12):
    assert one.dtype == other.dtype == torch.float64
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def flat_targets():
    return torch.tensor([0, 1, 2, 2]), torch.tensor([1, 4, 0, 3])


def test_i1_cam_is_grad_cam_times_the_number_of_positions(gap):
    model, _, network = gap
    if whylight.Need.GAP_HEAD not in model.capabilities:
        model = wrap_module(network)
    close(run_method(CAM, model, INPUTS, TARGETS).maps, POSITIONS * maps(GradCAM, gap))


def test_i1_cam_is_the_class_weights_times_the_maps(gap):
    network = gap[2]
    rows, classes = flat_targets()
    with torch.no_grad():
        expected = (network.head.weight[classes][:, :, None, None] * network.features(INPUTS)[rows]).sum(1)
    close(run_method(CAM, wrap_module(network), INPUTS, TARGETS).maps, expected)


def test_i2_hires_cam_is_grad_cam(gap):
    close(maps(HiResCAM, gap), maps(GradCAM, gap))


def test_i2_xgrad_cam_is_grad_cam(gap):
    close(maps(XGradCAM, gap), maps(GradCAM, gap))


def test_i3_hires_cam_and_the_bias_sum_to_the_score(gap):
    network = gap[2]
    rows, classes = flat_targets()
    with torch.no_grad():
        scores = network(INPUTS)[rows, classes]
    close(maps(HiResCAM, gap).sum((1, 2)) + network.head.bias[classes].detach(), scores)


def test_i4_layer_cam_uses_the_positive_weights_only(gap):
    network = gap[2]
    rows, classes = flat_targets()
    with torch.no_grad():
        weights = network.head.weight[classes].relu()[:, :, None, None] / POSITIONS
        expected = (weights * network.features(INPUTS)[rows]).sum(1)
    assert (network.head.weight < 0).any()
    close(maps(LayerCAM, gap), expected)


def test_i5_closed_form_of_grad_cam_plus_plus(gap):
    network = gap[2]
    rows, classes = flat_targets()
    with torch.no_grad():
        activations = network.features(INPUTS)[rows]
        gradients = network.head.weight[classes] / POSITIONS
        total = activations.sum((2, 3))
        weights = POSITIONS * gradients.relu() / (2 + total * gradients)
        expected = (weights[:, :, None, None] * activations).sum(1)
    close(maps(GradCAMPlusPlus, gap), expected)


def test_i5_the_eps_of_pytorch_grad_cam_is_a_bias(gap):
    exact, biased = maps(GradCAMPlusPlus, gap), maps(GradCAMPlusPlus, gap, profile="pytorch-grad-cam")
    assert not torch.allclose(exact, biased, rtol=1e-6, atol=0)


class Scaled(nn.Module):
    """A network whose scores are multiplied."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, inputs):
        return self.factor * self.network(inputs)


@pytest.mark.parametrize("network", [conv_gap_net, relu_net, functional_relu_net])
def test_i12_a_scaled_score_gives_the_same_picture_but_in_grad_cam_plus_plus(network):
    scale = ops.Scale(rectify=True)
    differences = {}
    for method in (GradCAM, XGradCAM, LayerCAM, HiResCAM, GradCAMPlusPlus):
        plain, tenfold = (
            ops.cam_render(
                run_method(method, Scaled(network().double(), factor), INPUTS, TARGETS).maps, (32, 48), scale
            )
            for factor in (1.0, 10.0)
        )
        assert float(plain.values.max()) == pytest.approx(1)
        differences[method.name] = float((plain.values - tenfold.values).abs().max())
    plus_plus = differences.pop("grad-cam++")
    assert max(differences.values()) < 1e-12
    assert plus_plus > 1e-3


@pytest.mark.parametrize("network", [relu_net, functional_relu_net])
@pytest.mark.parametrize("method", [GradCAM, GradCAMPlusPlus, XGradCAM, LayerCAM, HiResCAM])
def test_the_definition_at_a_layer_inside_the_network(network, method):
    """Against the formulas, with gradients of the whole graph; each input for itself."""
    net = network().double()
    layer = "features.3" if network is relu_net else "stem"
    rows, classes = flat_targets()
    kept = {}
    hook = net.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: kept.update(a=output) or output.clone()
    )
    scores = net(INPUTS.clone().requires_grad_())
    hook.remove()
    activations = kept["a"]
    gradients = torch.stack(
        [
            torch.autograd.grad(scores[r, c], activations, retain_graph=True)[0][r]
            for r, c in zip(rows, classes, strict=True)
        ]
    )
    activations = activations.detach()[rows]
    total = activations.sum((2, 3), keepdim=True)
    if method is GradCAM:
        weights = gradients.mean((2, 3), keepdim=True)
    elif method is XGradCAM:
        weights = (gradients * activations).sum((2, 3), keepdim=True) / total
    elif method is LayerCAM:
        weights = gradients.relu()
    elif method is HiResCAM:
        weights = gradients
    else:
        alpha = torch.where(gradients != 0, gradients**2 / (2 * gradients**2 + total * gradients**3), 0.0)
        weights = (gradients.relu() * alpha).sum((2, 3), keepdim=True)
    close(run_method(method, net, INPUTS, TARGETS, {"layer": layer}).maps, (weights * activations).sum(1), 1e-11)


def test_input_times_gradient_sums_to_the_score_of_a_network_without_biases():
    network = relu_net(bias=False).double()
    rows, classes = flat_targets()
    summed = run_method(InputXGradient, network, INPUTS, TARGETS).maps.sum((1, 2))
    with torch.no_grad():
        close(summed, network(INPUTS)[rows, classes])


def test_gradients_are_those_of_the_definition():
    network = functional_relu_net().double()
    rows, classes = flat_targets()
    inputs = INPUTS.clone().requires_grad_()
    scores = network(inputs)
    gradients = torch.stack(
        [torch.autograd.grad(scores[r, c], inputs, retain_graph=True)[0][r] for r, c in zip(rows, classes, strict=True)]
    )
    close(run_method(Saliency, network, INPUTS, TARGETS).maps, gradients.abs().amax(1))
    close(run_method(Saliency, network, INPUTS, TARGETS, {"reduce": "signed"}).maps, gradients.sum(1))
    close(run_method(InputXGradient, network, INPUTS, TARGETS).maps, (gradients * INPUTS[rows]).sum(1))
