"""Which layer "last-spatial" means, network by network; and that its maps are the ones that the head takes."""

from __future__ import annotations

import pytest
import torch
import torchvision

from whylight.errors import Unsupported
from whylight.method import Need
from whylight.models import wrap_module

EXPECTED = {
    "resnet18": ("layer4", (512, 2, 2), True),
    "resnet50": ("layer4", (2048, 2, 2), True),
    "vgg11": ("features.19", (512, 4, 4), False),
    "vgg16": ("features.29", (512, 4, 4), False),
    "alexnet": ("features.11", (256, 3, 3), False),
    "squeezenet1_1": ("classifier.2", (1000, 3, 3), False),
    "densenet121": ("features", (1024, 2, 2), False),
    "mobilenet_v2": ("features", (1280, 2, 2), True),
    "mobilenet_v3_small": ("features", (576, 2, 2), False),
    "efficientnet_b0": ("features", (1280, 2, 2), True),
    "convnext_tiny": ("features", (768, 2, 2), False),
    "regnet_y_400mf": ("trunk_output", (440, 2, 2), True),
    "shufflenet_v2_x0_5": ("conv5", (1024, 2, 2), True),
    "googlenet": ("inception5b", (1024, 2, 2), True),
    "mnasnet0_5": ("layers", (1280, 2, 2), True),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_torchvision_networks(name):
    layer, shape, head = EXPECTED[name]
    extra = {"init_weights": False} if name == "googlenet" else {}
    model = wrap_module(torchvision.models.get_model(name, **extra), input_size=(64, 64))
    assert model.last_spatial == layer
    assert model.layer("last-spatial").output_shape == shape
    assert (Need.GAP_HEAD in model.capabilities) is head
    assert {Need.GRADIENTS, Need.SPATIAL_LAYER} <= model.capabilities


def test_the_nested_names_of_one_tensor_are_known():
    model = wrap_module(torchvision.models.resnet18(), input_size=(64, 64))
    assert model.same_output("layer4.1", "layer4")
    assert model.same_output("layer4.1.relu", "layer4")
    assert not model.same_output("layer4.1.bn2", "layer4")
    assert model.subject().gap_head("layer4.1") is not None
    assert model.subject().gap_head("layer4.0") is None


def test_a_transformer_over_tokens_has_none():
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    model = wrap_module(torchvision.models.VisionTransformer(64, 16, **sizes), input_size=(64, 64))
    assert model.last_spatial is None
    assert Need.SPATIAL_LAYER not in model.capabilities
    assert Need.GRADIENTS in model.capabilities
    with pytest.raises(Unsupported, match="no last layer with maps"):
        model.subject().resolve_layer("last-spatial")


def test_timm_efficientnet_lite():
    timm = pytest.importorskip("timm")
    model = wrap_module(timm.create_model("tf_efficientnet_lite0"), input_size=(64, 64))
    assert model.last_spatial == "bn2"
    assert Need.GAP_HEAD in model.capabilities


def test_layers_are_listed_in_the_order_of_their_definition():
    model = wrap_module(torchvision.models.resnet18(), input_size=(64, 64))
    names = [layer.name for layer in model.layers]
    assert names[:4] == ["conv1", "bn1", "relu", "maxpool"]
    assert names.index("layer1") < names.index("layer1.0") < names.index("layer1.0.conv1")
    first = model.layers[0]
    assert (first.type, first.output_shape, first.parameter_count) == ("Conv2d", (64, 32, 32), 9408)
    assert model.parameter_count == sum(p.numel() for p in torchvision.models.resnet18().parameters())
    assert all(isinstance(size, int) for layer in model.layers for size in layer.output_shape)
    assert torch.device("cpu") == model.device
